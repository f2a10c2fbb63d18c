"What tests of training share: a corpus of a few clips, a toy encoder, and jobs of a few updates."
from dataclasses import replace
import pytest, torch
from safetensors.torch import load_file
from avcomp.data.clips import load_cuts
from avcomp.data.synthetic import make_corpus
from avcomp.data.tokens import train_tokenizer
from avcomp.models.avhubert import AVHubert, avhubert_config
from avcomp.models.checkpoints import save_model
from avcomp.models.hubert import Hubert, hubert_config
from avcomp.train.launch import Data, Job
from avcomp.train.tasks import PRESETS

@pytest.fixture(scope='session')
def corpus(tmp_path_factory):
    "Folder of an embedded corpus of 16 + 4 + 1 clips."
    return make_corpus(tmp_path_factory.mktemp('toy')/'corpus', clips=(16, 4, 1), noise_files=(1, 1, 1), num_workers=0)

@pytest.fixture(scope='session')
def parts(corpus):
    "Folder with `student` and `teacher` that read audio and video, a `listener` of waveforms, and `tokenizer.model`."
    folder = corpus.parent
    for seed, name in enumerate(('teacher', 'student')):
        torch.manual_seed(seed)
        save_model(AVHubert(avhubert_config('tiny', num_layers=2, embed_dim=32, ffn_dim=64, video_widths=(4, 8, 8, 8), pos_groups=4, head='none')), folder/name)
    save_model(Hubert(hubert_config('hubert_tiny', num_layers=2, conv_dims=(8,)*7, embed_dim=32, ffn_dim=64, pos_groups=4, mask_emb=True)), folder/'listener')
    train_tokenizer([c.supervisions[0].text for c in load_cuts(corpus, 'train')], folder/'tokenizer.model', 40)
    return folder

@pytest.fixture
def job(corpus, parts):
    "Maker of jobs: preset and stage name such as 'smoke joint', out folder, fields of the stage, fields of the job."
    def make(name, out, stage={}, **kwargs):
        preset, name = name.split() if ' ' in name else ('smoke', name)
        student, teacher, data = {'smoke': ('student', 'teacher', Data(folder=str(corpus))), 'smoke_audio': ('listener', 'listener', Data(folder=str(corpus), modalities=('wav',)))}[preset]
        small = dict(layers=((0,), (1, 2)), target_sparsity=0.4, multiples=()) if name in ('joint', 'distill') else {}
        own = dict(teacher=str(parts/teacher)) if small else dict(tokenizer=str(parts/'tokenizer.model'), decoder='tiny')
        return Job(replace(PRESETS[preset][name], **small | stage), out=str(out), **dict(data=data, student=str(parts/student)) | own | kwargs)
    return make

def weights(out):
    "What a job has trained."
    return load_file(out/'model'/'model.safetensors')
