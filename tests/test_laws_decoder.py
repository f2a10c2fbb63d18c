"The laws of compression for a model with a decoder: see DESIGN.md. Heads of both attentions and widths may go."
import math
from copy import deepcopy
import pytest, torch
from avcomp import count_macs, count_params, gate_, load_model, prune_, save_model
from avcomp.compress.dims import collect, size_polynomial
from avcomp.compress.l1 import l1_masks
from avcomp.compress.pruning import cut_
from avcomp.models.avhubert import avhubert_config
from avcomp.models.avhubert_s2s import AVHubertS2S, avhubert_s2s_config
from laws import numel, set_logits

MODELS = {'decoder': {}, 'decoder and CTC': dict(ctc=True), 'heads of their own width': dict(head_dim=10)}
UNITS = [('head',), ('ffn',), ('head', 'ffn'), ('conv', 'head', 'ffn', 'attn_layer', 'ffn_layer')]
LOGITS = {
    'random': lambda p: torch.randn_like(p)*2,
    'closed': lambda p: torch.full_like(p, -9.),
    'half': lambda p: torch.arange(len(p)) % 2*8. - 4,
}
DECODER = [f'decoder.layers.{i}.{name}' for i in range(2) for name in ('heads', 'cross_heads', 'ffn')]
AUDIO = torch.randn(2, 7, 104, generator=torch.Generator().manual_seed(1))
PADDING = torch.arange(7) >= torch.tensor([[7], [5]])
TOKENS = torch.tensor([[2, 5, 6, 7], [2, 8, 9, 1]])
pytestmark = pytest.mark.filterwarnings('ignore:Initializing zero-element')


def build(name):
    "A small model with norms and biases away from their defaults."
    torch.manual_seed(0)
    encoder = avhubert_config('tiny', head='none', embed_dim=48, ffn_dim=20, num_layers=2, video_widths=(4, 4, 6, 8),
                              pos_kernel=8, pos_groups=4)
    model = AVHubertS2S(avhubert_s2s_config('tiny', encoder, ffn_dim=22, vocab_size=16, **MODELS[name])).eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n.endswith('bias') or 'norm' in n: p.add_(torch.randn_like(p)*.3)
            elif 'layers' in n: p.mul_(3)
    return model

@torch.no_grad()
def run(model):
    "Logits of every token, and of the frames where there is a CTC head."
    out = model.encode(AUDIO, padding_mask=PADDING)
    return [model.decode_logits(out, TOKENS)] + ([model.ctc_log_probs(out)[out.valid]] if model.ctc_head else [])

def texts(model): return [[h.tokens for h in hyps] for hyps in model.transcribe(AUDIO, padding_mask=PADDING, nbest=3)]

def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5*b.abs().max().item())


@pytest.mark.parametrize('name', MODELS)
def test_open_gates_change_nothing(name):
    dense = build(name)
    gated = deepcopy(dense)
    gates = gate_(gated, UNITS[-1])
    assert set(DECODER) <= set(gates.gates)
    set_logits(gates, lambda p: torch.full_like(p, 100.))
    close(run(gated), run(dense))
    assert gates.expected_params().item() == numel(dense) == count_params(gated)
    assert gates.expected_macs(50).item() == count_macs(dense, 50)
    prune_(gated, gates)
    close(run(gated), run(dense))


CASES = [('decoder', units, 'random') for units in UNITS[:2]] + [
    ('decoder', UNITS[3], logits) for logits in LOGITS] + [
    (name, UNITS[2], logits) for name in list(MODELS)[1:] for logits in ('random', 'closed')]

@pytest.mark.parametrize('name, units, logits', CASES)
def test_sliced_is_gated(name, units, logits, tmp_path):
    model = build(name)
    for _ in range(2):   # gate, slice, save, load, gate and slice again
        if not set(units) <= set(collect(model).units()): break   # nothing of a unit was left
        gates = gate_(model, units)
        set_logits(gates, LOGITS[logits])
        before, found = run(model), texts(model)
        left = gates.table.sizes() | {n: int((z > 0).sum()) for n, z in gates.masks().items()}
        prune_(model, gates)
        close(run(model), before)
        assert texts(model) == found
        assert numel(model) == count_params(model) == size_polynomial(gates.table)(left)
        assert {n: d.size for n, d in collect(model).dims.items()}.items() <= left.items()
        assert all(model.config.sizes[n] == left[n] for n in DECODER if n in gates.gates)
        model = load_model(save_model(model, tmp_path/'model'))
        close(run(model), before)
        assert texts(model) == found


def test_encoding_costs_what_it_did():
    "The decoder has no part in the multiply-accumulates of encoding, gated or not."
    model = build('decoder and CTC')
    assert count_macs(model, 50) == count_macs(model.encoder, 50)
    gates = gate_(model, ('head', 'ffn'))
    set_logits(gates, lambda p: torch.full_like(p, 9.))
    before = count_macs(model, 50)
    with torch.no_grad():
        for name in DECODER: gates.gates[name].log_alpha.fill_(-9.)
    prune_(model, gates)
    assert count_macs(model, 50) == before and all(model.config.sizes[name] == 0 for name in DECODER)


def test_gates_train():
    "In training the gates of all three branches get gradients from the decoder's loss."
    model = build('decoder')
    gates = gate_(model, ('head', 'ffn'))
    model.train()
    loss = model(AUDIO, padding_mask=PADDING, tokens=TOKENS).square().mean() + gates.expected_params()/1e6
    loss.backward()
    for name in DECODER: assert gates.gates[name].log_alpha.grad.abs().sum() > 0


def test_large_weights_stay():
    "Shrinking by weight norms reaches the decoder too."
    model = build('decoder')
    with torch.no_grad(): model.decoder.layers[0].fc1.weight[::2] *= 1e-3
    masks = l1_masks(model, 0.03, ('ffn',))
    kept = masks['decoder.layers.0.ffn'].nonzero().flatten()
    assert set(range(1, 22, 2)) <= set(kept.tolist()) and len(kept) < 22
    cut_(model, masks)
    assert model.decoder.layers[0].fc1.out_features == len(kept)


def test_padding_changes_nothing():
    "The second clip alone, through a decoder whose gates are on, and its slices."
    model = build('decoder')
    gates = gate_(model, ('head', 'ffn'))
    set_logits(gates, LOGITS['random'])
    for _ in range(2):
        with torch.no_grad(): alone = model(AUDIO[1:, :5], tokens=TOKENS[1:])
        close([alone], [run(model)[0][1:]])
        one, = model.transcribe(AUDIO[1:, :5])
        both = model.transcribe(AUDIO, padding_mask=PADDING)[1]
        assert one[0].tokens == both[0].tokens and math.isclose(one[0].score, both[0].score, abs_tol=1e-4)
        if gates: gates = prune_(model, gates) and None
