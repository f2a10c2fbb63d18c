"Corpora of sound alone: the same clips from LibriSpeech's folders, lists, mixed files, shards; long and bad files."
import shutil, signal, subprocess, sys, time, tracemalloc
from itertools import islice
from pathlib import Path
import numpy as np, pytest, soundfile as sf, torch
import avcomp.data.corpora.lists as lists
from avcomp.data.batches import ClipDataset, collate, make_loader
from avcomp.data.clips import load_cuts
from avcomp.data.corpora import open_corpus
from avcomp.data.long_recordings import read_in_pieces
from avcomp.data.plans import BatchStream, filter_cuts, num_batches
from avcomp.data.shards import Shards, open_shards, write_shar
from avcomp.data.sound import read_wav, resample, write_wav
from avcomp.data.tokens import Tokenizer
from avcomp.data.views import Noise
from avcomp.evaluate.encoding import encode_long
from avcomp.models.hubert import Hubert, hubert_config
from avcomp.changes import change
from avcomp.train import progress
from avcomp.train.launch import launch
from toy import corpus, job, parts, weights

PARTS = {   # part -> split of the embedded corpus, and which of its clips
    'train-clean-100': ('train', slice(0, 6)), 'train-clean-360': ('train', slice(6, 12)),
    'train-other-500': ('train', slice(12, 16)), 'dev-clean': ('valid', slice(0, 4)),
}

@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "A cache of lists for each test."
    monkeypatch.setenv('AVCOMP_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'

@pytest.fixture(scope='session')
def libri(corpus, tmp_path_factory):
    "The embedded corpus laid out like LibriSpeech, and the id there -> the id in the embedded corpus."
    root, names = tmp_path_factory.mktemp('libri')/'LibriSpeech', {}
    for k, (part, (split, some)) in enumerate(PARTS.items()):
        folder, lines = root/part/f'{k}'/'7', []
        folder.mkdir(parents=True)
        for n, c in enumerate(list(load_cuts(corpus, split))[some]):
            id = f'{k}-7-{n:04d}'
            names[id] = c.id
            sf.write(folder/f'{id}.flac', *sf.read(c.recording.sources[0].source, dtype='int16'))
            lines.append(f'{id} {c.supervisions[0].text.upper()}\n')
        (folder/f'{k}-7.trans.txt').write_text(''.join(lines))
    return root, names

@pytest.fixture(scope='session')
def shar(corpus, tmp_path_factory):
    "The embedded corpus in shards of three clips."
    folder = tmp_path_factory.mktemp('shards')/'shar'
    for split in ('train', 'valid'): write_shar(load_cuts(corpus, split), folder, split, shard_size=3)
    return folder

def same(a, b, but=()):
    "Two batches are equal, in all but some entries."
    assert a.keys() == b.keys()
    for k in a.keys() - set(but): assert torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k], k

def batch_of(cuts, ids, spm): return collate([ClipDataset(cuts, spm, ('wav',))[0, id] for id in ids])

@pytest.mark.parametrize('layout, subset', [('librispeech', '960'), ('librispeech', '100'), ('tsv', ''), ('tsv', '100'),
                                            ('audio', '')])
def test_same_clips_in_every_layout(corpus, parts, libri, tmp_path, layout, subset):
    (root, names), spm, folder = libri, Tokenizer((parts/'tokenizer.model').read_bytes()), libri[0]
    if layout == 'tsv':
        folder = tmp_path
        trains = [p for p in PARTS if 'train' in p]
        chosen = {'train100': trains[:1], 'train960': trains, 'valid': ['dev-clean']}
        for name, some in chosen.items():
            files = [f for p in some for f in (root/p).rglob('*.flac')]
            rows = [f'{f.relative_to(root)}\t{sf.info(f).frames}\n' for f in files]
            (folder/f'{name}.tsv').write_text(f'{root}\n' + ''.join(rows))
    if layout == 'audio':
        for part, (split, _) in PARTS.items(): shutil.copytree(root/part, tmp_path/split/part)
        folder = tmp_path
    found = open_corpus(layout, folder, subset=subset)
    assert {s: len(c) for s, c in found.cuts.items()} == {'train': 6 if subset == '100' else 16, 'valid': 4}
    for split, cuts in found.cuts.items():
        mine = [c.id for c in cuts]
        theirs = [names[Path(i).name] for i in mine]
        same(batch_of(cuts, mine, spm), batch_of(load_cuts(corpus, split), theirs, spm), but=['ids'])
        assert all(c.custom == dict(video=None, num_frames=-(-c.recording.num_samples//640)) for c in cuts)
    again = open_corpus(layout, folder, subset=subset)
    packed = open_corpus('shar', pack(again, tmp_path/'shar'))
    assert again.id == found.id
    assert packed.cuts['train'].frames.tolist() == [c.custom['num_frames'] for c in again.cuts['train']]

def pack(found, folder):
    for split, cuts in found.cuts.items(): write_shar(cuts, folder, split, shard_size=5)
    return folder

def test_mixed_files(corpus, tmp_path):
    "Other rates, two channels and mp3 give nearly the same samples."
    kinds = [('wav', 48000, 1), ('flac', 44100, 2), ('mp3', 22050, 2), ('flac', 8000, 1)]
    for i, (c, (kind, rate, channels)) in enumerate(zip(load_cuts(corpus, 'train'), kinds)):
        x = resample(read_wav(c.recording.sources[0].source), 16000, rate)
        (tmp_path/'sounds').mkdir(exist_ok=True)
        sf.write(tmp_path/'sounds'/f'{i}.{kind}', np.stack([x*0.5, x*1.5] if channels > 1 else [x], 1), rate)
    cuts = {c.id: c for some in open_corpus('audio', tmp_path/'sounds').cuts.values() for c in some}
    batch = batch_of(cuts.values(), sorted(cuts), None)
    for i, c in enumerate(islice(load_cuts(corpus, 'train'), 4)):
        wav, n = torch.from_numpy(read_wav(c.recording.sources[0].source)), int(batch['lengths'][i])
        assert abs(n - len(wav)) <= 2 and not batch['wav'][i, n:].any()
        n = min(n, len(wav))
        error = (batch['wav'][i, :n] - wav[:n]).square().mean()/wav.square().mean()
        assert error < (0.2 if i == 3 else 0.01), (kinds[i], error)   # 8 kHz has lost the upper half of the band

def test_mp3_in_parts_and_cut_off(tmp_path):
    sf.write(tmp_path/'a.mp3', np.random.default_rng(0).normal(0, 0.1, 3*44100).clip(-1, 1), 44100, format='MP3')
    whole = read_wav(tmp_path/'a.mp3')
    for start, duration in ((0, 0.5), (1.2345, 1.), (2.5, 9.)):
        n = round(start*16000)
        part = read_wav(tmp_path/'a.mp3', start=start, duration=duration)
        np.testing.assert_allclose(part, whole[n:n + round(duration*16000)], atol=3e-3)
    pieces = [w for _, w in read_in_pieces(tmp_path/'a.mp3', 0.7)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=3e-3)
    data = (tmp_path/'a.mp3').read_bytes()
    (tmp_path/'b.mp3').write_bytes(data[:len(data)//2])
    damaged = 'b.mp3 names 132300 samples, but only .* damaged or cut short'
    with pytest.raises(ValueError, match=damaged): read_wav(tmp_path/'b.mp3')

def stream(data, count, **kw): return list(islice(make_loader(data, 200, **kw), count))

def test_shards_train_as_files_do(corpus, shar, parts):
    "Two processes of two loaders: nothing repeated, nothing lost, noise and all; and one can go on from any point."
    spm, noises = Tokenizer((parts/'tokenizer.model').read_bytes()), open_corpus('embedded', corpus).noises['train']
    own = dict(views=(Noise(0.5, (-5, 5)),), noises=noises, train=True, seed=5)
    cuts, counts = filter_cuts(open_corpus('shar', shar).cuts['train'], 20, 200)
    assert counts == {'kept': 16}
    data, N = ClipDataset(cuts, spm, ('wav',), **own), num_batches(cuts, 200)
    one = stream(data, 2*N + 2)
    for r in range(2):
        for a, b in zip(stream(data, N, rank=r, world_size=2, num_workers=2), one[r::2]): same(a, b)
    for a, b in zip(stream(data, 3, start=N - 1, num_workers=1), one[N - 1:]): same(a, b)
    epochs = [[i for b in one[e*N:e*N + N] for i in b['ids']] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(c.id for c in load_cuts(corpus, 'train'))
    assert epochs[0] != epochs[1]
    files = ClipDataset(load_cuts(corpus, 'train'), spm, ('wav',), **own)
    for b in one[:N]: same(b, collate([files[0, i] for i in b['ids']]))

def test_training_on_shards_goes_on_where_it_stopped(shar, job, tmp_path):
    "An unbroken run and one that was stopped and went on with loading processes end with the same weights."
    stage = {'fit.updates': 2, 'task.ctc_weight': 1.}
    data = {'layout': 'shar', 'folder': str(shar), 'modalities': ('wav',)}
    def one(out, **run):
        made = job('finetune', tmp_path/out, stage, data, checkpoint_every=1, **run)
        return launch(change(made, {'student': 'hubert_tiny'}))
    class Stop(Exception): pass
    def save_and_stop(trainer, path, real=progress.save_checkpoint):
        real(trainer, path)
        raise Stop
    report = one('whole')
    assert report['clips'] == {'train': {'kept': 16}, 'valid': {'kept': 4}} and report['data'].startswith('shar-')
    with pytest.MonkeyPatch.context() as m:
        m.setattr(progress, 'save_checkpoint', save_and_stop)
        with pytest.raises(Stop): one('parts')
    assert one('parts', num_workers=1)['resumed']
    a, b = weights(tmp_path/'whole'), weights(tmp_path/'parts')
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def test_many_shards_are_planned_as_they_come(monkeypatch):
    "300,000 clips: a batch is there when few have been drawn, three processes share an epoch, no batch is too large."
    n, drawn = 300_000, []
    frames = np.random.default_rng(0).integers(50, 391, n).astype(np.int32)
    shards = Shards(None, dict(first=np.arange(0, n + 1, 1000), frames=frames), np.arange(n))
    def counted(self, *args, real=Shards.order):
        for row in real(self, *args):
            drawn.append(row)
            yield row
    with monkeypatch.context() as m:
        m.setattr(Shards, 'order', counted)
        first = [next(iter(BatchStream(shards, 4000, seed=1, rank=r, world_size=3))) for r in range(3)]
    assert len(drawn) < 3000
    for b in first: assert len({row//1000 for _, row in b}) > 1   # from several shards
    small = shards.keep(np.arange(n) < 20_000)
    N = num_batches(small, 4000)
    epoch = list(islice(BatchStream(small, 4000, seed=1), N))
    shares = [list(islice(BatchStream(small, 4000, seed=1, rank=r, world_size=3), N)) for r in range(3)]
    assert [b for step in zip(*shares) for b in step][:N] == epoch
    rows = [row for b in epoch for _, row in b]
    assert sorted(rows) == list(range(20_000)) and {e for b in epoch for e, _ in b} == {0}
    assert max(len(b)*max(frames[row] for _, row in b) for b in epoch) <= 4000

def test_killed_while_writing_shards(corpus, shar, tmp_path):
    "A killed process leaves whole shards only; the next call ends with the same files."
    code = ("import sys, time, avcomp.data.shards as s\n"
            "from avcomp.data.clips import load_cuts\n"
            "real = s.sound_bytes\n"
            "def slow(cut):\n    time.sleep(0.1)\n    return real(cut)\n"
            "s.sound_bytes = slow\n"
            "s.write_shar(load_cuts(sys.argv[1], 'train'), sys.argv[2], 'train', 3)")
    p = subprocess.Popen([sys.executable, '-c', code, str(corpus), str(tmp_path)], stderr=subprocess.DEVNULL)
    while not (tmp_path/'train'/'cuts.000001.jsonl.gz').exists() and p.poll() is None: time.sleep(0.02)
    p.send_signal(signal.SIGKILL)
    p.wait()
    done = sorted((tmp_path/'train').glob('cuts.*'))
    assert 2 <= len(done) < 6 and not (tmp_path/'train.npz').exists()
    times = {f: f.stat().st_mtime_ns for f in done}
    write_shar(load_cuts(corpus, 'train'), tmp_path, 'train', 3)
    assert {f: f.stat().st_mtime_ns for f in done} == times
    assert open_shards(tmp_path, 'train').id == open_shards(shar, 'train').id

def test_three_hours(tmp_path):
    "A file of three hours is read and encoded in the memory of a few windows."
    with sf.SoundFile(tmp_path/'long.flac', 'w', 16000, 1, 'PCM_16') as f:
        for _ in range(180): f.write(np.zeros(960_000, np.int16))
    tracemalloc.start()
    read = sum(len(wav) for _, wav in read_in_pieces(tmp_path/'long.flac'))
    small = Hubert(hubert_config('hubert_tiny')).eval()
    windows = islice(encode_long(small, tmp_path/'long.flac', progress=False), 3)
    firsts = [(first, len(states[-1])) for first, states in windows]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == 172_800_000 and firsts == [(0, 1000), (1000, 1000), (2000, 1000)]
    assert peak < 20e6   # bytes; the whole would be 691 MB

# damage: what is written (path), what opening the corpus says, or what loading says when only that can know
def write_cut_off(path):
    sf.write(path, np.random.default_rng(0).normal(0, .1, 32000), 16000, format='FLAC')
    path.write_bytes(path.read_bytes()[:20000])

def float_wav(path, values): sf.write(path, np.array(values), 16000, subtype='FLOAT')

BAD = {
    'no sound':     (lambda p: p.write_bytes(b'no sound'*100), 'no readable audio file', None),
    'cut-off flac': (write_cut_off, None, 'damaged or cut short'),
    'empty file':   (lambda p: p.touch(), 'no readable audio file: empty', None),
    'no samples':   (lambda p: sf.write(p, np.zeros(0), 16000), 'file without samples', None),
    'one sample':   (lambda p: sf.write(p, np.ones(1), 16000), None, '1 samples are less than one frame'),
    'nan':          (lambda p: float_wav(p, [0.1, np.nan]*8000), None,
                     'has 8000 samples that are nan or inf, the first at 0.000 s'),
    'inf':          (lambda p: float_wav(p, [0.1]*8000 + [np.inf]), None,
                     'has 1 samples that are nan or inf, the first at 0.500 s'),
}

@pytest.mark.parametrize('name', BAD)
def test_bad_files(tmp_path, cache, name):
    write, at_opening, at_loading = BAD[name]
    for i in range(3): write_wav(tmp_path/'x'/'train'/f'good{i}.wav', np.full(16000, 0.1))
    path = tmp_path/'x'/'train'/'bad.wav'
    write(path)
    if at_opening:
        told = f'1 of 4 files cannot be used: 1 x {at_opening}.*bad.wav'
        with pytest.raises(ValueError, match=told): open_corpus('audio', tmp_path/'x')
        assert not list(cache.glob('*.jsonl.gz'))
        path.unlink()
        assert len(open_corpus('audio', tmp_path/'x').cuts['train']) == 3
        return
    cuts = open_corpus('audio', tmp_path/'x').cuts['train']
    loader = make_loader(ClipDataset(cuts, modalities=('wav',)), 400)
    with pytest.raises(ValueError, match=at_loading) as e: list(loader)
    assert 'train/bad' in str(e.value)
    with pytest.raises(ValueError, match=at_loading): write_shar(cuts, tmp_path/'shar', 'train')
    kept, counts = filter_cuts(cuts, min_frames=5)
    short = {'kept': 3, 'under 5 frames (0.2 s)': 1}
    assert counts == (short if name == 'one sample' else {'kept': 4})

def test_damaged_librispeech(libri, cache, tmp_path):
    root = Path(shutil.copytree(libri[0], tmp_path/'LibriSpeech'))
    sound = next((root/'dev-clean').rglob('*.flac'))
    sound.write_bytes(b'no sound'*100)
    damaged = rf'dev-clean: 1 of 4 .*no readable audio file.*{sound.name}.*Unpack dev-clean.tar.gz again'
    with pytest.raises(ValueError, match=damaged): open_corpus('librispeech', root)
    sound.unlink()
    missing = rf'1 of 4 files cannot be used: 1 x missing audio .*{sound.stem}'
    with pytest.raises(ValueError, match=missing): open_corpus('librispeech', root)
    assert not list(cache.glob('librispeech-dev-clean*')) and len(list(cache.glob('librispeech-*'))) == 3

def test_an_interrupted_scan_leaves_no_list(libri, cache, monkeypatch):
    def stop(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(lists, 'make_cut', stop)
        with pytest.raises(KeyboardInterrupt): open_corpus('audio', libri[0])
    assert not list(cache.rglob('*.jsonl.gz'))
    assert sum(map(len, open_corpus('audio', libri[0]).cuts.values())) == 20

def test_a_changed_shard_is_noticed(shar, tmp_path):
    folder = Path(shutil.copytree(shar, tmp_path/'shar'))
    tar = folder/'train'/'recording.000002.tar'
    tar.write_bytes(tar.read_bytes()[:-20000])
    cuts = open_shards(folder, 'train')
    with pytest.raises(ValueError, match='recording.000002.tar: another size'): cuts.check()
    with pytest.raises(ValueError, match='recording.000002.tar ends within a clip|cut short'): list(cuts)
