"""HuBERT Base against `transformers` (SDPA) on 10 s of audio, and dense against pruned, in turn:

    python -m benchmarks.audio"""
import argparse, statistics
from copy import deepcopy
import torch
from avcomp.compress.dims import count_macs
from avcomp.compress.l1 import l1_masks
from avcomp.compress.pruning import cut_
from avcomp.evaluate.cost import ratios, time_in_turn, use_threads
from avcomp.models.formats.huggingface_writing import to_transformers
from avcomp.models.hubert import hubert_config

def main(name='hubert_base', seconds=10, clips=1, sparsity=(0.5, 0.75), repeats=5, threads=2):
    torch.manual_seed(0)
    config = hubert_config(name)
    dense = config.model_cls(config).eval()
    models = {'transformers': to_transformers(dense), 'avcomp': dense}   # WavLM's attention has no SDPA there
    for s in sparsity:
        models[f'avcomp, sliced {s:.0%}'] = small = deepcopy(dense)
        cut_(small, l1_masks(small, s))
    wav = torch.randn(clips, 16000*seconds)*.1
    frames = dense.num_frames(16000*seconds)
    with torch.inference_mode(), use_threads(threads):
        times = time_in_turn({n: lambda m=m: m(wav) for n, m in models.items()}, repeats, warmup=1)
    print(f'{name}, {clips} x {seconds} s, {threads} threads')
    others, own = ratios(times), ratios({n: times[n] for n in list(times)[1:]})
    for n, (low, mid, high) in others.items():
        line = (f'  {n:20}  {statistics.median(times[n]):8.1f} ms   {1/mid:5.2f} times as fast as transformers '
                f'({1/high:.2f} to {1/low:.2f})')
        if n in own and models[n] is not dense:
            time, macs = own[n][1], count_macs(models[n], frames)/count_macs(dense, frames)
            line += (f'   {1/time:5.2f} times as fast as dense, {1/macs:5.2f} times fewer MACs: '
                     f'{macs/time:.2f} of it')
        print(line)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--name', default='hubert_base')
    p.add_argument('--seconds', type=int, default=10)
    p.add_argument('--clips', type=int, default=1)
    p.add_argument('--sparsity', type=float, nargs='+', default=(0.5, 0.75))
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--threads', type=int, default=2)
    main(**vars(p.parse_args()))
