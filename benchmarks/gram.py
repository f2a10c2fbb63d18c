"""Memory of the Gram term on 8 clips of 20 s, for HuBERT Base's 12 layers and a student's of width 432:

    python -m benchmarks.gram"""
import argparse, resource, time
import torch
from avcomp.distill.gram import Gram
from avcomp.distill.terms import Passes, Reading
from avcomp.models.contract import Output


def peak():
    "The largest memory that this process has had, in GB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20


def states(layers, shape, grad):
    "An encoder's output of random states."
    made = [torch.randn(*shape, requires_grad=grad) for _ in range(layers + 1)]
    return Output(made, made[-1])


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split(':')[0])
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--seconds', type=int, default=20)
    args = parser.parse_args()
    shape = args.batch, 50*args.seconds
    student, teacher = states(12, (*shape, 432), True), states(12, (*shape, 768), False)
    for x in student.hidden_states: x.grad = torch.zeros_like(x)   # there in any training
    before, start = peak(), time.perf_counter()
    outs = (Reading(None, {}, encode=lambda out=out: out) for out in (student, teacher))
    loss = Gram(scale='dim')(Passes(*outs), None)['total']
    forward = peak()
    loss.backward()
    print(f'states {before:.2f} GB; the loss adds {forward - before:.2f} GB, '
          f'with its gradient {peak() - before:.2f} GB; {time.perf_counter() - start:.0f} s')
