"""Visual noise, in turn: frames a second of every kind at 96x96 beside decoding; and what it costs a training.

    python -m benchmarks.visual_noise
"""
import argparse, statistics, tempfile
from itertools import islice
from pathlib import Path
import cv2, numpy as np
import torch
from avcomp.data.batches import ClipDataset, make_loader
from avcomp.data.clips import load_cuts, load_video
from avcomp.data.corruptions import OURS, SEEN, UNSEEN, corrupt
from avcomp.data.synthetic import make_corpus
from avcomp.data.video import read_video, write_video
from avcomp.data.views import Crop
from avcomp.data.visual_noise import VisualNoise
from avcomp.evaluate.cost import ratios, time_in_turn, use_threads
from avcomp.models.avhubert import AVHubert, avhubert_config

KINDS = SEEN + UNSEEN + OURS
LEVELS = 1, 5, 10
WANTED = 1500   # frames a second on one core, of every kind but video compression


def kinds(clip, folder, repeats):
    "Every kind at a few levels, on one thread."
    path = folder/'clip.mp4'
    write_video(path, clip)
    generator = torch.Generator().manual_seed(0)
    calls = {'decoding': lambda: read_video(path)}
    calls |= {f'{k}#{n}': lambda k=k, n=n: corrupt(clip, k, n, generator) for k in KINDS for n in LEVELS}
    times = time_in_turn(calls, repeats, warmup=1)
    print(f'{len(clip)} frames of 96x96, one thread; time over that of decoding them')
    for name, (low, mid, high) in ratios(times).items():
        usual, best = (1000*len(clip)/f(times[name]) for f in (statistics.median, min))
        slow = f'   below {WANTED:,}' if best < WANTED and name != 'decoding' else ''
        speed = f'{usual:9,.0f} frames/s, best {best:9,.0f}'
        print(f'  {name:14} {speed}   ratio {mid:5.2f} ({low:.2f} to {high:.2f}){slow}')


def trainer(cuts, views, max_frames, workers):
    "A function that trains a tiny lip reader on some batches."
    torch.manual_seed(0)
    model = AVHubert(avhubert_config('tiny'))
    optimizer = torch.optim.AdamW(model.parameters())
    data = ClipDataset(cuts, modalities=('video',), views=views, train=True)
    batches = iter(make_loader(data, max_frames, num_workers=workers))
    def train(updates):
        for batch in islice(batches, updates):
            out = model(video=batch['video'], padding_mask=batch['padding_mask'])
            out.last[out.valid].square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return train


def training(cuts, max_frames, updates, workers, repeats):
    "With and without the rule of sampling; video compression is not in it."
    views = {'crops alone': (Crop(),), 'visual noise': (VisualNoise(), Crop()),
             'all ten kinds, always': (VisualNoise(KINDS, prob=1.), Crop())}
    made = {name: trainer(cuts, v, max_frames, workers) for name, v in views.items()}
    times = time_in_turn({name: lambda train=train: train(updates) for name, train in made.items()}, repeats, warmup=1)
    print(f'{updates} updates of a tiny AV-HuBERT on {max_frames} frames each, {workers} loader workers; '
          'time over that without noise')
    for name, (low, mid, high) in ratios(times).items():
        update = statistics.median(times[name])/updates
        print(f'  {name:22} {update:7.1f} ms an update   ratio {mid:.2f} ({low:.2f} to {high:.2f})')


def main(frames=75, repeats=5, clips=16, max_frames=200, updates=6, workers=2, threads=1):
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder)/'corpus', clips=(clips, 1, 1), noise_files=(1, 1, 1))
        cuts = list(load_cuts(corpus, 'train'))
        clip = np.concatenate([load_video(c) for c in cuts[:4]])[:frames]
        with use_threads(1): kinds(clip, Path(folder), repeats)
        with use_threads(threads): training(cuts, max_frames, updates, workers, repeats)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    for name, value in dict(frames=75, repeats=5, clips=16, max_frames=200, updates=6, workers=2, threads=1).items():
        p.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    main(**vars(p.parse_args()))
