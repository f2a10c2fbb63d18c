"The same clips in the layouts of other projects give the same batches, and train; mended words make another corpus."
import gzip, os, shutil
from dataclasses import dataclass
from pathlib import Path
import pytest, soundfile as sf, torch
from avcomp.core import atomic_path
from avcomp.data.alignment import read_alignments
from avcomp.data.batches import ClipDataset, make_loader
from avcomp.data.clips import load_cuts
from avcomp.data.corpora.autoavsr import write_autoavsr_list
from avcomp.data.corpora.avhubert import write_avhubert_lists
from avcomp.data.corpora import BUILT_IN, open_corpus
from avcomp.data.features import clip_generator
from avcomp.data.shards import write_shar
from avcomp.data.tokens import Tokenizer
from avcomp.data.views import Noise
from avcomp.models.checkpoints import load_model
from avcomp.settings import kind
from avcomp.train.launch import launch
from toy import corpus, job, parts

SPLITS = 'train', 'valid'

@pytest.fixture(scope='module')
def layouts(corpus, parts, tmp_path_factory):
    "Layout -> (folder of clips, folder of noise lists)."
    spm, made = Tokenizer((parts/'tokenizer.model').read_bytes()), tmp_path_factory.mktemp('layouts')
    noise, folders = made/'musan', {'embedded': corpus, 'avhubert': made/'lrs3', 'autoavsr': made/'lrs3_autoavsr'}
    for split in SPLITS:
        cuts = load_cuts(corpus, split)
        write_avhubert_lists(cuts, folders['avhubert'], split)
        write_autoavsr_list(cuts, folders['autoavsr'], split, spm)
        for name, recordings in open_corpus('embedded', corpus).noises[split].items():
            lines = [f'{Path(c.recording.sources[0].source).absolute()}\n' for c in recordings]
            with atomic_path(noise/name/f'{split}.tsv') as p: p.write_text(''.join(lines))
    return {k: (f, '' if k == 'embedded' else noise) for k, f in folders.items()}

@kind('noise_by_name')
@dataclass(frozen=True)
class NoiseByName(Noise):
    "Draws noise by the last part of a clip's id: Auto-AVSR's ids name the folder too."
    def mixed(self, pools, item, generator):
        return super().mixed(pools, item, clip_generator(0, 'noise', Path(item['id']).name))

def batches(layout, folder, noise, split, spm):
    "Name of a clip -> what it becomes in a batch, noise included."
    c, found = open_corpus(layout, folder, noise), {}
    noises = {k: c.noises[split][k] for k in sorted(c.noises[split])}
    for b in make_loader(ClipDataset(c.cuts[split], spm, views=(NoiseByName(1., 0.),), noises=noises), 200):
        for k, (i, n) in enumerate(zip(b['ids'], b['lengths'])):
            found[Path(i).name] = b['audio'][k, :n], b['video'][k, :n], b['tokens'][k], b['text'][k]
    return found

@pytest.mark.parametrize('layout', ['avhubert', 'autoavsr'])
def test_same_batches(layouts, parts, layout):
    spm = Tokenizer((parts/'tokenizer.model').read_bytes())
    for split in SPLITS:
        a, b = (batches(k, *layouts[k], split, spm) for k in ('embedded', layout))
        assert a.keys() == b.keys() and len(a) == {'train': 16, 'valid': 4}[split]
        for k in a:
            for x, y in zip(a[k][:3], b[k][:3]): assert torch.equal(x, y)
            assert a[k][3] == b[k][3]

@pytest.mark.parametrize('layout', ['avhubert', 'autoavsr'])
def test_fine_tuning(layouts, job, tmp_path, layout):
    folder, noise = layouts[layout]
    stage = {'fit.updates': 3, 'views.noise.prob': 1.}
    data = {'layout': layout, 'folder': str(folder), 'noise': str(noise)}
    report = launch(job('finetune', tmp_path/'out', stage, data))
    assert report['clips'] == {'train': {'kept': 16}, 'valid': {'kept': 4}} and report['data'].startswith(f'{layout}-')
    assert load_model(tmp_path/'out'/'model').family == 'avhubert_s2s'

def lay_out_lists(corpus, root, spm):
    "av_hubert's lists, with a root beside them."
    for split in SPLITS:
        write_avhubert_lists(load_cuts(corpus, split), root, split)
        lists = (root/f'{split}.tsv').read_text().replace('/\n', '.\n', 1)
        for c in load_cuts(corpus, split):
            for path in (c.custom['video'], c.recording.sources[0].source):
                shutil.copyfile(path, root/Path(path).name)
                lists = lists.replace(str(Path(path).absolute()), Path(path).name)
        (root/f'{split}.tsv').write_text(lists)

def lay_out_sounds(corpus, root, name):
    "Sounds and words; `name` makes a path of the split and a clip id."
    for split in SPLITS:
        for c in load_cuts(corpus, split):
            path = root/name(split, c.id)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(c.recording.sources[0].source, path)
            path.with_suffix('.txt').write_text(c.supervisions[0].text)
            yield split, path, c

def lay_out_tsv(corpus, root, spm):
    lines = dict.fromkeys(SPLITS, '.\n')
    for split, path, c in lay_out_sounds(corpus, root, lambda split, id: f'{id}.wav'):
        lines[split] += f'{path.name}\t{c.recording.num_samples}\n'
    for split, text in lines.items(): (root/f'{split}.tsv').write_text(text)

def lay_out_librispeech(corpus, root, spm):
    "One chapter a part, with the times of words."
    name = {'train': 'train-clean-100', 'valid': 'dev-clean'}
    for split, part in name.items():
        folder, said, timed = root/part/'1'/'2', '', ''
        folder.mkdir(parents=True)
        for n, c in enumerate(load_cuts(corpus, split)):
            sf.write(folder/f'1-2-{split}{n}.flac', *sf.read(c.recording.sources[0].source, dtype='int16'))
            words = c.supervisions[0].text.upper().split()
            said += f"1-2-{split}{n} {' '.join(words)}\n"
            ends = [str(c.duration*(i + 1)/len(words))[:5] for i in range(len(words))]
            timed += f'''1-2-{split}{n} "{','.join(words)}" "{','.join(ends)}"\n'''
        (folder/'1-2.trans.txt').write_text(said)
        (folder/'1-2.alignment.txt').write_text(timed)

LAY_OUT = {   # layout -> how clips of the embedded corpus come to lie in a folder
    'embedded': lambda corpus, root, spm: shutil.copytree(corpus, root, dirs_exist_ok=True),
    'avhubert': lay_out_lists,
    'autoavsr': lambda corpus, root, spm: [write_autoavsr_list(load_cuts(corpus, s), root, s, spm) for s in SPLITS],
    'librispeech': lay_out_librispeech,
    'audio': lambda corpus, root, spm: list(lay_out_sounds(corpus, root, lambda split, id: f'{split}/{id}.wav')),
    'tsv': lay_out_tsv,
    'shar': lambda corpus, root, spm: [write_shar(load_cuts(corpus, s), root, s, 6) for s in SPLITS],
}
WORDS = 'mended words'
MEND = [   # layout, file, and what to write in place of what; None: the sentence of the first training clip
    ('embedded', 'train.jsonl.gz', None, WORDS), ('avhubert', 'train.wrd', None, WORDS),
    ('autoavsr', 'demo/demo_text_seg24s/train-00000.txt', None, WORDS), ('autoavsr', 'labels/train.csv', '\n', ' 1\n'),
    ('autoavsr', 'labels/units.txt', '<unk> 1', '<unk> 999'),
    ('librispeech', 'train-clean-100/1/2/1-2.trans.txt', None, WORDS),
    ('librispeech', 'train-clean-100/1/2/1-2.alignment.txt', '"0.', '"0.0'),
    ('audio', 'train/train-00000.txt', None, WORDS), ('audio', 'valid/x.trans.txt', '', 'valid-00001 mended words'),
    ('tsv', 'train-00000.txt', None, WORDS), ('tsv', 'x.trans.txt', '', 'train-00000 mended words'),
    ('shar', 'train/cuts.000000.jsonl.gz', None, WORDS),
]

def mend(path, old, new):
    "What a file holds, packed or not, and what it is to hold; None = it is not there."
    before = path.read_bytes() if path.exists() else None
    unpack, pack = (gzip.decompress, gzip.compress) if path.suffix == '.gz' else (bytes, bytes)
    text = unpack(before or pack(b'')).decode()
    found = old if old in text else old.upper()   # LibriSpeech shouts
    return before, pack(text.replace(found, new, 1).encode())

def test_every_layout_is_mended(): assert {layout for layout, *_ in MEND} == set(LAY_OUT) == set(BUILT_IN)

@pytest.mark.parametrize('layout, name, old, new', MEND, ids=lambda x: str(x)[:20])
def test_mended_words_are_another_corpus(corpus, parts, tmp_path, monkeypatch, layout, name, old, new):
    monkeypatch.setenv('AVCOMP_CACHE', str(tmp_path/'cache'))
    (tmp_path/'a').mkdir()
    LAY_OUT[layout](corpus, tmp_path/'a', Tokenizer((parts/'tokenizer.model').read_bytes()))
    found = open_corpus(layout, tmp_path/'a')
    assert open_corpus(layout, tmp_path/'a').id == found.id
    path = tmp_path/'a'/name
    first = next(iter(load_cuts(corpus, 'train'))).supervisions[0].text
    before, changed = mend(path, first if old is None else old, new)
    assert changed != before
    path.write_bytes(changed)
    mended = open_corpus(layout, tmp_path/'a')
    assert mended.id != found.id
    texts = [c.supervisions[0].text for cuts in mended.cuts.values() for c in cuts]
    assert texts.count(WORDS) == ('mended' in new)
    if before is None: path.unlink()
    else: path.write_bytes(before)
    assert open_corpus(layout, tmp_path/'a').id == found.id

@pytest.mark.parametrize('layout', BUILT_IN)
def test_moved_corpus_is_the_same(corpus, parts, tmp_path, monkeypatch, layout):
    monkeypatch.setenv('AVCOMP_CACHE', str(tmp_path/'cache'))
    (tmp_path/'a').mkdir()
    LAY_OUT[layout](corpus, tmp_path/'a', Tokenizer((parts/'tokenizer.model').read_bytes()))
    found = open_corpus(layout, tmp_path/'a')
    shutil.copytree(tmp_path/'a', tmp_path/'b'/'c', copy_function=shutil.copyfile)   # with other times
    shutil.rmtree(tmp_path/'a')
    moved = open_corpus(layout, tmp_path/'b'/'c')
    assert (moved.id, moved.noise_id) == (found.id, found.noise_id) and found.id.startswith(f'{layout}-')
    assert all(os.path.exists(c.recording.sources[0].source) for c in moved.cuts['train'] if layout != 'shar')

@pytest.mark.parametrize('layout', ['embedded', 'librispeech', 'shar'])
def test_times_of_words(corpus, parts, tmp_path, monkeypatch, layout):
    "Layouts that know when words are said tell it in the same way."
    monkeypatch.setenv('AVCOMP_CACHE', str(tmp_path/'cache'))
    LAY_OUT[layout](corpus, tmp_path, Tokenizer((parts/'tokenizer.model').read_bytes()))
    cuts = list(open_corpus(layout, tmp_path).cuts['valid'])
    times = read_alignments(cuts, 'word')
    for c in cuts:
        assert [word for word, _, _ in times[c.id]] == c.supervisions[0].text.split()
        assert all(0 <= start < end <= c.duration + 0.01 for _, start, end in times[c.id])
