"""Input pipeline, in turn: readers and the libraries below them; batched features, single ones and those of
python_speech_features; views; loaders.

    python -m benchmarks.data
"""
import argparse, statistics, tempfile
from itertools import islice
from pathlib import Path
import decord
import numpy as np
import soundfile as sf
import torch
from python_speech_features import logfbank as psf_logfbank
from avcomp.data.audio_noise import mix
from avcomp.data.batches import ClipDataset, make_loader
from avcomp.data.clips import make_cut
from avcomp.data.features import clip_generator, crop_flip, fbank, logfbank, normalise_video
from avcomp.data.corpora.avhubert import read_avhubert_lists, write_avhubert_lists
from avcomp.data.sound import read_wav, write_wav
from avcomp.data.video import read_video, write_video
from avcomp.data.views import Crop
from avcomp.evaluate.cost import ratios, time_in_turn, use_threads


def show(title, calls, repeats):
    print(title)
    times = time_in_turn(calls, repeats, warmup=1)
    for name, (low, mid, high) in ratios(times).items():
        print(f'  {name:34} {statistics.median(times[name]):9.2f} ms   ratio {mid:5.2f} ({low:.2f} to {high:.2f})')


def reading(wav, frames, repeats, folder):
    "What it costs to look closely: whether all is there, at its time, and what it says it is."
    for kind in ('wav', 'flac', 'mp3', 'ogg'):
        path = folder/f'sound.{kind}'
        sf.write(path, wav.numpy(), 16000)
        show(f'a sound of {frames} frames, {kind}', {
            'soundfile': lambda path=path: sf.read(path, dtype='float32'),
            'read_wav': lambda path=path: read_wav(path)}, 20*repeats)
    film = folder/'mouth.mp4'
    write_video(film, np.random.default_rng(0).integers(100, 140, (frames, 96, 96)).astype(np.uint8))
    show(f'a film of {frames} frames', {
        'decord': lambda: decord.VideoReader(str(film)).get_batch(range(frames)).asnumpy(),
        'read_video': lambda: read_video(film)}, 4*repeats)
    cuts = [make_cut(f'{i}', folder/'sound.wav', film, 'a clip', 'speaker', frames) for i in range(300)]
    write_avhubert_lists(cuts, folder, 'train')
    show(f'a list of {len(cuts)} clips', {
        'headers by soundfile': lambda: [sf.info(folder/'sound.wav') for _ in cuts],
        'read_avhubert_lists': lambda: read_avhubert_lists(folder, 'train')}, repeats)


def features(wavs, frames, repeats):
    batch, int16 = torch.stack(wavs), [(w.numpy()*32768).astype(np.int16) for w in wavs]
    n = torch.tensor([frames]*len(wavs))
    for w, i in zip(logfbank(batch), int16):
        np.testing.assert_allclose(w.numpy(), psf_logfbank(i), rtol=1e-4, atol=1e-4)
    show(f'features of {len(wavs)} clips of {frames} frames', {
        'python_speech_features logfbank': lambda: [psf_logfbank(i) for i in int16],
        'logfbank, one by one': lambda: [logfbank(w) for w in wavs],
        'logfbank, batched': lambda: logfbank(batch),
        'fbank (stacked, normalised), batched': lambda: fbank(batch, n)}, repeats)


def augmentation(wavs, frames, repeats):
    noise, g = torch.rand(160000) - .5, clip_generator(0, 'crop')
    videos = [torch.randint(256, (frames, 96, 96), dtype=torch.uint8) for _ in wavs]
    show(f'augmentation of {len(wavs)} clips', {
        'logfbank, batched': lambda: logfbank(torch.stack(wavs)),
        'mix noise': lambda: [mix(w, noise, 0.) for w in wavs],
        'crop and flip uint8': lambda: [crop_flip(v, g) for v in videos],
        'crop, flip, then normalise': lambda: [normalise_video(crop_flip(v, g)) for v in videos],
        'normalise, then crop and flip': lambda: [crop_flip(normalise_video(v), g) for v in videos]}, repeats)


def loading(wavs, frames, repeats, folder):
    cuts = []
    for i, w in enumerate(wavs):
        write_wav(folder/f'{i}.wav', w.numpy(), 16000)
        pictures = np.random.default_rng(i).integers(100, 140, (frames, 96, 96))
        write_video(folder/f'{i}.mp4', pictures.astype(np.uint8))
        cuts.append(make_cut(f'{i}', folder/f'{i}.wav', folder/f'{i}.mp4', 'a clip', 'speaker', frames))
    budget, epochs = 4*frames, 8   # several epochs a round: workers read a few batches ahead between rounds
    def stream(**kwargs):          # the endless loader of training, kept open between rounds
        cache = kwargs.pop('cache', False)
        it = iter(make_loader(ClipDataset(cuts, views=(Crop(),), train=True, cache=cache), budget, **kwargs))
        return lambda: [None for _ in islice(it, epochs*len(wavs)//4)]
    show(f'{epochs} epochs of {len(wavs)} clips in batches of 4', {
        'this process': stream(),
        'this process, clips cached': stream(cache=True),
        '2 workers': stream(num_workers=2)}, repeats)


def main(clips=16, frames=75, repeats=5, threads=2):
    torch.manual_seed(0)
    wavs = [(torch.rand(640*frames) - .5).mul(32768).trunc()/32768 for _ in range(clips)]
    with use_threads(threads), tempfile.TemporaryDirectory() as folder:
        reading(wavs[0], frames, repeats, Path(folder))
        features(wavs, frames, repeats)
        augmentation(wavs, frames, repeats)
        loading(wavs, frames, repeats, Path(folder))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--clips', type=int, default=16)
    p.add_argument('--frames', type=int, default=75)
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--threads', type=int, default=2)
    main(**vars(p.parse_args()))
