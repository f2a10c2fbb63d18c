"Codebooks and int8 for every family, after other methods too; training towards codebooks stops and goes on exactly."
from copy import deepcopy
import pytest, torch
from torch import nn
from avcomp.compress.dims import collect, count_macs, count_params
from avcomp.compress.int8 import quantize_dynamic_
from avcomp.compress.l1 import l1_masks
from avcomp.compress.magnitude import apply_masks_, magnitude_masks
from avcomp.compress.merging import collapse_
from avcomp.compress.pruning import cut_
from avcomp.compress.quantization import Quantize
from avcomp.compress.codebooks import kmeans_1d, quantizable, quantize_
from avcomp.changes import change
from avcomp.core import FAMILIES
from avcomp.models.checkpoints import load_model, save_model
from avcomp.train.engine import finished, prepare, run
from avcomp.train.progress import resume_point
from laws import numel
from tiny import CLIPS, MODELS, build, clips_of
from toy import corpus, job, parts, stopped_at, weights

pytestmark = pytest.mark.filterwarnings('ignore:Initializing zero-element')

@torch.no_grad()
def encode(model, clips=CLIPS): return model.encode(**clips_of(model, clips)).last

def far(a, b): return ((a - b).norm()/b.norm()).item()

def cut(model): cut_(model, l1_masks(model, 0.2, ('head', 'ffn')))
def merge(model): collapse_(model, 'QK')
def sparsify(model): apply_masks_(model, magnitude_masks(model, 0.6))

METHODS = {'dense': (), 'sliced, merged, sparse': (cut, merge, sparsify)}

def made(family, methods):
    model = build(family)
    for method in METHODS[methods]:
        if method is merge and not collect(model).merges: continue
        method(model)
    return model

def test_every_family_is_here():
    assert {name for name, (_, cls) in FAMILIES.items() if cls.__module__.startswith('avcomp.')} == set(MODELS)


@pytest.mark.parametrize('methods', METHODS)
@pytest.mark.parametrize('family', MODELS)
def test_codebooks(family, methods, tmp_path):
    "Few values, the same zeros and sizes, near outputs, and a file that gives back every bit."
    model = made(family, methods)
    before = deepcopy(model)
    report = quantize_(model, bits=7)
    for (name, a), b in zip(quantizable(before).items(), quantizable(model).values()):
        assert len(b.unique()) <= 128 and torch.equal(a == 0, b == 0), name
    assert far(encode(model), encode(before)) < 0.1
    assert count_params(model) == count_params(before) == numel(before) >= report.weights
    back = load_model(save_model(model, tmp_path/'packed', packed=True))
    assert all(torch.equal(back.state_dict()[k], v) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match='the model is quantized'): quantize_(back, bits=7)


@pytest.mark.parametrize('methods', METHODS)
@pytest.mark.parametrize('family', MODELS)
def test_int8(family, methods, tmp_path):
    "Near outputs, the same sizes, a file that gives back the model; a clip does not depend on its neighbours."
    model = made(family, methods)
    before = deepcopy(model)
    report = quantize_dynamic_(model, least=512)
    y = encode(model)
    assert far(y, encode(before)) < 0.05
    assert (count_params(model), count_macs(model)) == (count_params(before), count_macs(before))
    assert numel(model) == numel(before) == report.params
    linear = [m for m in before.modules() if isinstance(m, nn.Linear) and m.weight.numel() >= 512]
    assert report.layers == len(linear) and report.weights == sum(m.weight.numel() for m in linear)
    assert report.bytes[0] - report.bytes[1] == sum(3*m.weight.numel() - 4*m.out_features for m in linear)
    back = load_model(save_model(model, tmp_path/'int8', packed=methods != 'dense'))
    assert torch.equal(encode(back), y) and back.config == model.config
    loud = {k: torch.cat([v[:1], 100*v[1:]]) if v.is_floating_point() else v for k, v in CLIPS.items()}
    assert far(encode(model, loud)[:1], y[:1]) < 1e-3
    with pytest.raises(ValueError, match='quantize_dynamic_ comes last'): quantize_dynamic_(model, least=512)
    with pytest.raises(ValueError, match='slicing needs weights in floating point'): cut(model)

@pytest.mark.parametrize('family', [name for name in MODELS if name in ('avhubert_s2s', 'vsr')])
def test_int8_writes(family):
    model = build(family)
    quantize_dynamic_(model, least=512)
    assert all(len(found) == 1 for found in model.transcribe(**clips_of(model), beam_size=2))


def test_kmeans_of_a_large_tensor():
    "As good as with all distances; numbers far from the others get values of their own."
    torch.manual_seed(0)
    x = torch.cat([torch.randn(200_000)*0.02, torch.tensor([5., 5., -4.])])
    values, errors = kmeans_1d(x, 256, torch.Generator().manual_seed(0))
    nearest = torch.stack([(part[:, None] - values).abs().min(1).values.square().sum() for part in x.split(10_000)])
    torch.testing.assert_close(torch.tensor(errors[-1]), nearest.sum(), rtol=1e-3, atol=0)
    assert len(values) <= 256 and errors == sorted(errors, reverse=True)


SETTINGS = {'methods': (Quantize(bits=3, every=2, iterations=4),), 'fit.updates': 5}

def test_stopped_and_resumed(job, tmp_path):
    "What was stopped between two steps of the copies ends bit by bit as what ran through."
    def make(name): return job('smoke_audio finetune', tmp_path/name, SETTINGS, checkpoint_every=3)
    stopped, whole = make('stopped'), make('whole')
    with stopped_at(4): run(stopped)
    assert resume_point(tmp_path/'stopped'/'last.ckpt', stopped.id) == 3
    report = run(stopped)['methods']['quantize']
    assert run(whole)['methods']['quantize'] == report and finished(stopped)['resumed']
    a, b = weights(tmp_path/'stopped'), weights(tmp_path/'whole')
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    model = load_model(tmp_path/'whole'/'model')
    assert max(len(w.unique()) for w in quantizable(model).values()) <= 8
    assert report['bits'] == 3 and 0 < report['error'] < 1

def test_int8_teaches_and_does_not_learn(job, parts, tmp_path):
    teacher = load_model(parts/'teacher')
    quantize_dynamic_(teacher, least=512)
    folder = str(save_model(teacher, tmp_path/'int8'))
    assert run(job('pruning', tmp_path/'out', {'task.teacher': folder, 'fit.updates': 1}))['updates'] == 1
    pupil = change(job('pruning', tmp_path/'none'), {'student': folder})
    with pytest.raises(ValueError, match='training needs weights in floating point'): prepare(pupil)
