"Auto-AVSR files, states, log-probabilities and losses against recorded numbers (tests/golden/vsr)."
import json
from pathlib import Path
import numpy as np, pytest, torch
from safetensors.torch import load_file
from avcomp.distill.objectives import ctc_loss, label_smoothed_loss
from avcomp.models.checkpoints import build_model, load_model, save_model
from avcomp.models.formats.auto_avsr import read_auto_avsr
from test_golden_avhubert import make_weights

GOLDEN = Path(__file__).parent/'golden/vsr'
CASES = 'autoavsr_tiny', 'autoavsr_tiny_gen1'
CLOSE = dict(rtol=1e-4, atol=5e-5)

def close(got, want, **tol): torch.testing.assert_close(got, want, **(tol or CLOSE))

@pytest.fixture(scope='module', params=CASES)
def case(request, tmp_path_factory):
    "A model from a file of either generation, what was recorded of it, and what is expected."
    folder = GOLDEN/request.param
    path = folder/'weights_gen1.pth'
    if not path.exists():
        path = tmp_path_factory.mktemp('vsr')/'newer.pth'
        torch.save(load_file(folder/'weights.safetensors'), path)
    io, meta, expected = load_file(folder/'io.safetensors'), *(
        json.loads((folder/f'{name}.json').read_text()) for name in ('meta', 'expected'))
    return load_model(path), io | {'video': io['video'][:, :, 0].float()}, meta, expected

def test_shape(case):
    model, _, meta, _ = case
    c, told = model.config, meta['config']
    assert (c.embed_dim, c.num_heads, c.ffn_dim, c.num_layers) == (
        told['d_model'], told['heads'], told['ffn'], told['enc_layers'])
    assert (c.decoder_layers, c.conv_kernel, c.vocab_size) == (told['dec_layers'], told['kernel'], told['vocab'])
    assert c.video_widths == tuple(told['frontend_widths'])
    assert (model.vocab.blank, model.vocab.pad, model.vocab.sos, model.vocab.eos) == (
        meta['blank'], meta['ignore_id'], meta['sos_eos'], meta['sos_eos'])

@torch.no_grad()
def test_single(case):
    "A clip alone, and the same in a padded batch; the second clip's recorded values in the batch hold leaked padding."
    model, io, meta, _ = case
    lengths = torch.tensor(meta['lengths'])
    for out in (model.encode(io['video'][:1]), model.encode(io['video'], lengths)):
        close(out.hidden_states[0][:1], io['single.proj'])
        for k in range(1, model.config.num_layers + 1): close(out.hidden_states[k][:1], io[f'single.layer_{k}'])
        close(out.last[:1], io['single.encoder_out'])
        close(model.ctc_log_probs(out)[:1], io['single.ctc_log_probs'])
        logp = model.decode_logits(out, io['decoder_in'][:len(out.last)]).log_softmax(-1)
        real = io['decoder_out_target'][:1] != -1
        close(logp[:1][real], io['single.decoder_log_probs'][real])
    n = meta['lengths'][1]
    alone = model.encode(io['video'][1:, :n]).last[0]
    close(out.last[1, :n], alone)
    assert (io['padded.encoder_out'][1, :n] - alone).abs().max() > 0.1
    close(model.video.pooled(io['video'][:1]), io['single.frontend'][0])

def test_losses(case):
    "From recorded log-probabilities: ours differ from the recorded ones by the entropy of the smoothed targets."
    model, io, meta, expected = case
    B, V, eps = len(io['video']), model.config.vocab_size, 0.1
    target = io['decoder_out_target']
    padding = torch.arange(io['video'].shape[1]) >= torch.tensor(meta['lengths'])[:, None]
    ctc = ctc_loss(io['padded.ctc_log_probs'], target, model.vocab, padding)['total'].item()
    assert ctc == pytest.approx(expected['loss_ctc'], rel=1e-5)
    entropy = -((1 - eps)*np.log(1 - eps) + eps*np.log(eps/(V - 1)))*int((target != -1).sum())/B
    attention = label_smoothed_loss(io['padded.decoder_log_probs'], target, model.vocab, eps)['total'].item()
    assert attention - entropy == pytest.approx(expected['loss_att'], rel=1e-5)
    assert 0.1*ctc + 0.9*(attention - entropy) == pytest.approx(expected['loss'], rel=1e-5)

@torch.no_grad()
def test_saved(case, tmp_path):
    model, io, _, _ = case
    again = load_model(save_model(model, tmp_path/'model'))
    assert again.config == model.config and again.family == 'vsr'
    close(again.encode(io['video'][:1]).last, model.encode(io['video'][:1]).last, rtol=0, atol=0)

@torch.no_grad()
def test_base_l_full_size():
    folder, tol = GOLDEN/'base_l_full_size_recipe', dict(rtol=1e-3, atol=2e-4)
    meta, expected = (json.loads((folder/f'{name}.json').read_text()) for name in ('meta', 'expected'))
    io = load_file(folder/'io.safetensors')
    found = read_auto_avsr(folder, dict(make_weights(expected['key_shapes'], meta['seed'])))
    assert len(expected['key_shapes']) == expected['entries'] == 767
    model = build_model(found, 'the recipe')
    assert sum(p.numel() for p in model.parameters()) == expected['param_count'] == 250_383_410
    video = torch.from_numpy(np.random.RandomState(meta['seed']).standard_normal((1, 6, 1, 88, 88))).float()
    close(video.flatten()[:8], io['video_check'])
    out = model.encode(video[:, :, 0])
    close(model.video.pooled(video[:, :, 0]), io['frontend'][0], **tol)
    close(out.last, io['encoder_out'], **tol)
    close(model.ctc_log_probs(out)[..., :200], io['ctc_log_probs_first_200'], **tol)
    logp = model.decode_logits(out, io['decoder_in']).log_softmax(-1)
    close(logp[..., :200], io['decoder_log_probs_first_200'], **tol)
