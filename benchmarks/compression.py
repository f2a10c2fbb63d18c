"""Dense against sliced and merged encoders, in turn: `python -m benchmarks.compression`."""
import argparse
from copy import deepcopy
import torch
from avcomp.compress.l1 import l1_masks
from avcomp.compress.merging import collapse_
from avcomp.compress.pruning import cut_
from avcomp.evaluate.cost import cost_table
from avcomp.models.avhubert import AVHubert, avhubert_config

ROW = ('  {name:20} {params:11,} params  {latency_ms:8.1f} ms  rtf {rtf:.3f}  {memory_mb:6.0f} MB  '
       'MACs {macs_left:.2f}  time {ratio:.2f}  gain {gain}')


def variants(size, sparsity):
    "A dense encoder and what becomes of it: name -> model."
    torch.manual_seed(0)
    models = {'dense': AVHubert(avhubert_config(size, head='none')).eval()}
    models['merged QKV'] = merged = deepcopy(models['dense'])
    collapse_(merged)
    for s in sparsity:
        for name, start in ((f'sliced {s:.0%}', 'dense'), (f'merged, sliced {s:.0%}', 'merged QKV')):
            models[name] = small = deepcopy(models[start])
            cut_(small, l1_masks(small, s, multiples=dict(conv=8)))
    return models


def main(sizes=('tiny', 'base'), frames=100, clips=1, sparsity=(0.5, 0.7), repeats=10, threads=2):
    for size in sizes:
        rows = cost_table(variants(size, sparsity), frames, batch_size=clips, repeats=repeats, threads=threads)
        print(f'{size}, {clips} x {frames} frames, {threads} threads; '
              'gain = fall of the time over fall of the MACs')
        for r in rows:
            left = r['macs']/rows[0]['macs']
            gain = f"{(1 - r['ratio'])/(1 - left):5.2f}" if left < 1 else ''
            print(ROW.format(**r, macs_left=left, gain=gain))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--sizes', nargs='+', default=('tiny', 'base'))
    p.add_argument('--frames', type=int, default=100)
    p.add_argument('--clips', type=int, default=1)
    p.add_argument('--sparsity', type=float, nargs='+', default=(0.5, 0.7))
    p.add_argument('--repeats', type=int, default=10)
    p.add_argument('--threads', type=int, default=2)
    main(**vars(p.parse_args()))
