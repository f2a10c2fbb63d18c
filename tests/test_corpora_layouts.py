"The same clips in the layouts of other projects give the same batches, and train."
from pathlib import Path
import pytest, torch
from avcomp.core import atomic_path
from avcomp.data.batches import ClipDataset, make_loader
from avcomp.data.audio_noise import NoiseMixer
from avcomp.data.clips import load_cuts
from avcomp.data.corpora import open_corpus, write_autoavsr_list, write_avhubert_lists
from avcomp.data.tokens import Tokenizer
from avcomp.models.checkpoints import load_model
from avcomp.train.launch import Data, launch
from toy import corpus, job, parts

SPLITS = 'train', 'valid'

@pytest.fixture(scope='module')
def layouts(corpus, parts):
    "Layout -> (folder of clips, folder of noise lists)."
    spm = Tokenizer((parts/'tokenizer.model').read_bytes())
    noise, folders = parts/'musan', {'embedded': corpus, 'avhubert': parts/'lrs3', 'autoavsr': parts/'lrs3_autoavsr'}
    for split in SPLITS:
        cuts = load_cuts(corpus, split)
        write_avhubert_lists(cuts, folders['avhubert'], split)
        write_autoavsr_list(cuts, folders['autoavsr'], split, spm)
        for kind, recordings in open_corpus('embedded', corpus).noises[split].items():
            with atomic_path(noise/kind/f'{split}.tsv') as p: p.write_text(''.join(f'{Path(c.recording.sources[0].source).absolute()}\n' for c in recordings))
    return {k: (f, '' if k == 'embedded' else noise) for k, f in folders.items()}

class Same:
    "Draws noise by the last part of a clip's id: Auto-AVSR's ids name the folder too."
    def __init__(self, mixer): self.mixer = mixer
    def __call__(self, wav, key): return self.mixer(wav, Path(key).name)

def batches(layout, folder, noise, split, spm):
    "Name of a clip -> what it becomes in a batch, noise included."
    c = open_corpus(layout, folder, noise)
    mixer = NoiseMixer({k: c.noises[split][k] for k in sorted(c.noises[split])}, prob=1., snr_db=0.)
    loader = make_loader(ClipDataset(c.cuts[split], spm, noise=Same(mixer)), 200)
    return {Path(i).name: (b['audio'][k, :n], b['video'][k, :n], b['tokens'][k], b['text'][k]) for b in loader for k, (i, n) in enumerate(zip(b['ids'], b['lengths']))}

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
    report = launch(job('finetune', tmp_path/'out', dict(updates=3, noise_prob=1.), data=Data(layout, str(folder), str(noise))))
    assert report['clips'] == {'train': {'kept': 16}, 'valid': {'kept': 4}} and report['data'].startswith(f'{layout}-')
    assert load_model(tmp_path/'out'/'model').family == 'avhubert_s2s'
