"What tests of training share: a corpus of a few clips, a toy encoder, jobs of a few updates, and how one is stopped."
import os, signal
from contextlib import contextmanager
from unittest.mock import patch
import pytest, torch
from safetensors.torch import load_file
from avcomp.data.clips import load_cuts
from avcomp.data.synthetic import make_corpus
from avcomp.data.tokens import train_tokenizer
from avcomp.data.units import train_units
from avcomp.models.avhubert import AVHubert, avhubert_config
from avcomp.models.checkpoints import save_model
from avcomp.models.hubert import Hubert, hubert_config
from avcomp.models.vsr import VSR, vsr_config
from avcomp.changes import change
from avcomp.train.fit import stretched
from avcomp.train.job import Data, Job, Run
from avcomp.train.presets.table import preset
from avcomp.train.progress import Keeper
from warm import once

@contextmanager
def stopped_at(update):
    "A training in this process gets SIGTERM, as batch systems send it, where this update is recorded, and stops."
    record = Keeper.record
    def stop(self, n, *args):
        record(self, n, *args)
        if n == update: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), patch.object(Keeper, 'record', stop): yield

AV = dict(num_layers=2, embed_dim=32, ffn_dim=64, video_widths=(4, 8, 8, 8), video_stride=8, pos_groups=4, head='none')
WAV = dict(num_layers=2, conv_dims=(8,)*7, embed_dim=32, ffn_dim=64, pos_groups=4, mask_emb=True)
LIPS = dict(num_layers=2, embed_dim=32, ffn_dim=64, video_widths=(4, 8, 8, 8), decoder_layers=1, decoder_ffn_dim=64)
MODELS = {   # preset -> student, teacher, streams, tokenizer
    'smoke': ('student', 'teacher', ('audio', 'video'), 'tokenizer.model'),
    'smoke_audio': ('listener', 'listener', ('wav',), 'tokenizer.model'),
    'smoke_armhubert': ('listener', 'listener', ('wav',), 'tokenizer.model'),
    'smoke_sparse_vsr_tiny': ('reader', 'reader', ('video',), 'units.model'),
}

def make_parts(folder):
    corpus = make_corpus(folder/'corpus', clips=(16, 4, 1), noise_files=(1, 1, 1), num_workers=0)
    for seed, name in enumerate(('teacher', 'student')):
        torch.manual_seed(seed)
        save_model(AVHubert(avhubert_config('tiny', **AV)), folder/name)
    save_model(Hubert(hubert_config('hubert_tiny', **WAV)), folder/'listener')
    save_model(VSR(vsr_config('tiny', **LIPS)), folder/'reader')
    texts = [c.supervisions[0].text for c in load_cuts(corpus, 'train')]
    train_tokenizer(texts, folder/'tokenizer.model', 40)
    train_units(texts, folder/'units.model', kind='char')

@pytest.fixture(scope='session')
def parts(tmp_path_factory):
    "Folder with `student`, `teacher`, a `listener` of waveforms, a `reader` of lips, `tokenizer.model`, `units.model`."
    return once(tmp_path_factory, 'toy', make_parts)   # each module that imports a fixture has one of its own

@pytest.fixture(scope='session')
def corpus(parts):
    "Folder of an embedded corpus of 16 + 4 + 1 clips, to be read alone."
    return parts/'corpus'

def small_fields(stage, teacher, tokenizer):
    "What of a smoke stage has to fit the toy encoders, by dotted names."
    if stage.task.kind == 'finetune': return {'task.tokenizer': str(tokenizer), 'task.decoder': 'tiny'}
    gates = any(m.kind == 'gates' for m in stage.methods)
    layers = any(t.kind == 'layers' for t in stage.task.terms)
    found = {'task.teacher': str(teacher)} | ({'task.terms.layers.groups': ((0,), (1, 2))} if layers else {})
    return found | ({'methods.gates.target': 0.4, 'methods.gates.multiples': ()} if gates else {})

@pytest.fixture
def job(corpus, parts):
    "Maker of jobs: stage of a preset such as 'smoke pruning', out folder, fields of the stage, fields of the run."
    def make(name, out, stage={}, data={}, seed=0, **run):   # of six updates, where `stage` names no other number
        table, name = name.split() if ' ' in name else ('smoke', name)
        student, teacher, modalities, tokenizer = MODELS[table]
        clips, settings = Data(folder=str(corpus), modalities=modalities), stretched(preset(table)[name], 6)
        settings = change(settings, small_fields(settings, parts/teacher, parts/tokenizer) | stage)
        return Job(settings, change(clips, data), str(parts/student), out=str(out), seed=seed, run=Run(**run))
    return make

def weights(out):
    "What a job has trained."
    return load_file(out/'model'/'model.safetensors')
