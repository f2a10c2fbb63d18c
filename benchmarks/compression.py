"""Dense against sliced and merged encoders, in turn: `python -m benchmarks.compression`."""
import argparse
from copy import deepcopy
import torch
from avcomp.compress.merging import collapse_
from avcomp.compress.pruning import cut_, l1_masks
from avcomp.evaluate.cost import cost_table
from avcomp.models.avhubert import AVHubert, avhubert_config


def main(sizes=('tiny', 'base'), frames=100, clips=1, sparsity=(0.5, 0.7), repeats=10, threads=2):
    for size in sizes:
        torch.manual_seed(0)
        models = {'dense': AVHubert(avhubert_config(size, head='none')).eval()}
        models['merged QKV'] = merged = deepcopy(models['dense'])
        collapse_(merged)
        for s in sparsity:
            for name, start, target in ((f'sliced {s:.0%}', 'dense', s), (f'merged, sliced {s:.0%}', 'merged QKV', s)):
                models[name] = small = deepcopy(models[start])
                cut_(small, l1_masks(small, target, multiples=dict(conv=8)))
        rows = cost_table(models, frames, batch_size=clips, repeats=repeats, threads=threads)
        print(f'{size}, {clips} x {frames} frames, {threads} threads; gain = fall of the time over fall of the MACs')
        for r in rows:
            macs, time = r['macs']/rows[0]['macs'], r['ratio']
            gain = f'{(1 - time)/(1 - macs):5.2f}' if macs < 1 else ''
            print('  {name:20} {params:11,} params  {latency_ms:8.1f} ms  rtf {rtf:.3f}  {memory_mb:6.0f} MB'.format(**r), f'  MACs {macs:.2f}  time {time:.2f}  gain {gain}')


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--sizes', nargs='+', default=('tiny', 'base'))
    p.add_argument('--frames', type=int, default=100)
    p.add_argument('--clips', type=int, default=1)
    p.add_argument('--sparsity', type=float, nargs='+', default=(0.5, 0.7))
    p.add_argument('--repeats', type=int, default=10)
    p.add_argument('--threads', type=int, default=2)
    main(**vars(p.parse_args()))
