"What a GPU computes is what a CPU computes: models, methods, searches and trainings; skipped where there is none."
from copy import deepcopy

import pytest
import torch
from laws import set_logits
from tiny import FORMS, build, clips_of
from toy import corpus, job, parts, weights
from torch import distributed as dist
from torch import nn

from avcomp.compress.gates import gate_
from avcomp.compress.magnitude import apply_masks_, magnitude_masks
from avcomp.compress.pairs import outputs_of, try_pairs
from avcomp.compress.patterns import pattern_masks
from avcomp.compress.pruning import prune_
from avcomp.models.armhubert import armhubert_config
from avcomp.models.avhubert import avhubert_config
from avcomp.models.avhubert_s2s import AVHubertS2S, avhubert_s2s_config
from avcomp.models.hubert import hubert_config
from avcomp.models.vsr import VSR, vsr_config
from avcomp.train.engine import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
B, T = 3, 40
SEED = torch.Generator().manual_seed(0)
MASK = torch.arange(T) >= torch.tensor([T, 31, 17])[:, None]
SEEN = torch.randn(B, T, 88, 88, generator=SEED)
HEARD = torch.randn(B, T, 104, generator=SEED)
WAV = torch.randn(B, 16000, generator=SEED)


def audio_visual():
    encoder = avhubert_config('tiny', head='none')
    return AVHubertS2S(avhubert_s2s_config('tiny', encoder, ctc=True)), dict(audio=HEARD, video=SEEN, padding_mask=MASK)


def lip_reader(): return VSR(vsr_config('tiny')), dict(video=SEEN, padding_mask=MASK)


def listener(config): return config.model_cls(config), dict(wav=WAV, lengths=torch.tensor([16000, 12000, 9000]))


FAMILIES = {
    'avhubert_s2s': audio_visual,
    'vsr': lip_reader,
    'vsr that hears': lambda: listener(vsr_config('tiny', stream='wav')),
    **{size: lambda size=size: listener(hubert_config(size, vocab_size=32))
       for size in ('hubert_tiny', 'wavlm_tiny', 'wav2vec2_tiny')},
    **{size: lambda size=size: listener(armhubert_config(size, vocab_size=32))
       for size in ('armhubert_tiny', 'starhubert_tiny')},
}


@pytest.fixture(autouse=True)
def all_bits(monkeypatch):
    "No arithmetic of fewer bits on the GPU."
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@pytest.fixture(params=FAMILIES)
def family(request):
    "A model in eval mode and its inputs, on the CPU."
    torch.manual_seed(0)
    model, inputs = FAMILIES[request.param]()
    return model.eval(), inputs


def on_gpu(model, inputs): return deepcopy(model).cuda(), {k: v.cuda() for k, v in inputs.items()}


@torch.no_grad()
def encoded(model, inputs): return outputs_of(model, inputs).cpu()


def near(a, b): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4*b.abs().max().item())


def test_outputs(family):
    near(encoded(*on_gpu(*family)), encoded(*family))


def test_transcripts(family):
    "Random weights say little; that little is the same, token by token."
    model, inputs = family
    there = {k: v.cuda() for k, v in inputs.items()}
    for beam_size in (1, 4):
        here = model.transcribe(**inputs, beam_size=beam_size, max_len=12)
        found = deepcopy(model).cuda().transcribe(**there, beam_size=beam_size, max_len=12)
        for a, b in zip(here, found, strict=True):
            assert a[0].score == pytest.approx(b[0].score, rel=1e-3, abs=1e-3)


def test_gated_is_sliced(family):
    model, inputs = on_gpu(*family)
    gates = gate_(model, ('conv', 'head', 'ffn'))
    set_logits(gates, lambda p: (torch.randn(p.shape, generator=SEED)*2).to(p))
    before = encoded(model, inputs)
    prune_(model, gates)
    near(encoded(model, inputs), before)


@pytest.mark.parametrize('form', FORMS)
def test_pairs(form):
    "Methods go together there as they do here."
    here = build(form)
    model, inputs = on_gpu(here, clips_of(here))
    found = try_pairs(model, inputs)
    assert [(p.first, p.second, p.broken) for p in found if p.broken] == []


def test_masks(family):
    "The same weights go."
    model, _ = family
    here, there = magnitude_masks(model, 0.5), magnitude_masks(deepcopy(model).cuda(), 0.5)
    assert here.keys() == there.keys() and all(torch.equal(here[k], there[k].cpu()) for k in here)


def test_two_of_four_is_what_the_hardware_takes():
    "PyTorch's layout for sparse tensor cores holds such weights without loss."
    from torch.sparse import to_sparse_semi_structured
    layer = nn.Linear(256, 128).cuda().half()
    apply_masks_(layer, pattern_masks(layer, 0.5, '2:4'))
    assert torch.equal(to_sparse_semi_structured(layer.weight.data).to_dense(), layer.weight.data)


@pytest.mark.parametrize('name', ['pruning', 'finetune', 'smoke_audio pruning'])
def test_training(job, tmp_path, name):
    "A job in 16 bits, some of its clips with the lips of others."
    whole = run(job(name, tmp_path/'whole', stage={'fit.precision': '16-mixed', 'task.dubbing': 0.5}))
    assert whole['precision'] == '16-mixed' and torch.tensor(whole['loss_valid']).isfinite()
    assert all(w.isfinite().all() for w in weights(tmp_path/'whole').values() if w.is_floating_point())


def encode_half(rank, meeting, model, inputs, out):
    "One of two processes on one GPU: its half of the batch, with the batch statistics of both."
    torch.backends.cudnn.allow_tf32 = False
    dist.init_process_group('gloo', init_method=f'file://{meeting}', rank=rank, world_size=2)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model).cuda().train()
    half = {k: v[2*rank:2*rank + 2].cuda() for k, v in inputs.items()}
    with torch.no_grad(): torch.save((model.encode(**half).last.cpu(), model.state_dict()), f'{out}{rank}')
    dist.destroy_process_group()


@pytest.mark.parametrize('stream', ['video', 'wav'])
def test_batch_statistics_of_two_processes(stream, tmp_path):
    "What `fit.sync_batchnorm` asks for: two processes compute what one does that has the clips of both."
    torch.manual_seed(0)
    model = VSR(vsr_config('tiny', stream=stream))
    inputs = dict(video=torch.randn(4, T, 88, 88)) if stream == 'video' else dict(wav=torch.randn(4, 16000))
    torch.multiprocessing.spawn(encode_half, (tmp_path/'meeting', model, inputs, tmp_path/'half'), nprocs=2)
    halves = [torch.load(tmp_path/f'half{rank}') for rank in (0, 1)]
    whole = deepcopy(model).cuda().train()
    with torch.no_grad(): found = whole.encode(**{k: v.cuda() for k, v in inputs.items()}).last
    near(torch.cat([x for x, _ in halves]), found.cpu())
    for _, state in halves:
        for name, w in whole.state_dict().items():
            torch.testing.assert_close(state[name].cpu(), w.cpu(), rtol=1e-3, atol=1e-5)
