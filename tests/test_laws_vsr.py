"The laws of compression for lip readers, their twins that hear, and every unit: see DESIGN.md."
import pytest, torch
from avcomp.compress.dims import collect, count_params, size_polynomial
from avcomp.compress.emptied import cut_emptied_
from avcomp.compress.gates import gate_
from avcomp.compress.l1 import l1_masks
from avcomp.compress.pruning import cut_, prune_
from avcomp.evaluate.robustness import features_as_video, video_features
from avcomp.models.contract import unfilled_model
from avcomp.models.vsr import VSR, VSR_SIZES, vsr_config
from laws import check_merging, check_open_gates, check_rounds, close, multiplications, numel, set_logits

MODELS = {
    'sees': {},
    'wide heads': dict(head_dim=10, video_stride=2),
    'merged': dict(shared='QK', decoder_layers=0),
    'hears': dict(stream='wav', head_dim=5),
}
ALL = 'conv', 'head', 'ffn', 'conv_module', 'attn_layer', 'ffn_layer', 'conv_layer'
LOGITS = {
    'random': lambda p: torch.randn_like(p)*2,
    'closed': lambda p: torch.full_like(p, -9.) + torch.arange(len(p))*.01,
    'half': lambda p: torch.arange(len(p)) % 2*8. - 4,
}
FRAMES, SHORT = 6, 4
GENERATOR = torch.Generator().manual_seed(1)
CLIPS = {'video': torch.randn(2, FRAMES, 88, 88, generator=GENERATOR),
         'wav': torch.randn(2, FRAMES*640, generator=GENERATOR)}
UNIT = {'video': 1, 'wav': 640}   # of lengths, in a frame
TOKENS = torch.tensor([[11, 5, 6, 7], [11, 8, 9, -1]])
pytestmark = pytest.mark.filterwarnings('ignore:Initializing zero-element')


def build(name):
    "A small model with statistics, norms, biases and directions away from their defaults."
    torch.manual_seed(0)
    small = dict(embed_dim=48, ffn_dim=20, num_layers=2, conv_kernel=5, video_widths=(4, 6, 8, 10),
                 wav_widths=(4, 6, 8, 10), vocab_size=12, decoder_ffn_dim=22)
    model = VSR(vsr_config('tiny', **small | MODELS[name])).eval()
    with torch.no_grad():
        for n, t in model.state_dict().items():
            if 'running' in n or 'bn' in n and t.is_floating_point(): t.copy_(torch.rand_like(t) + .5)
            elif n.endswith('bias') or 'norm' in n and t.is_floating_point(): t.add_(torch.randn_like(t)*.3)
            elif 'layers' in n and t.is_floating_point(): t.mul_(2)
    return model

def clips(model, rows=slice(None), frames=FRAMES):
    "Clips of one length, or of two."
    stream = model.config.stream
    return CLIPS[stream][rows, :frames*UNIT[stream]]

@torch.no_grad()
def run(model):
    "All that the encoder and the heads give for two clips of different length."
    lengths = torch.tensor([FRAMES, SHORT])*UNIT[model.config.stream]
    out = model(clips(model), lengths)
    found = [torch.cat([h[out.valid] for h in [*out.hidden_states, out.last]], -1), model.ctc_log_probs(out)[out.valid]]
    if 'decoder' in model.heads: found.append(model.decode_logits(out, TOKENS))
    return torch.cat([t.flatten() for t in found])

def flops(model): return multiplications(model, clips(model, slice(1)))


@pytest.mark.parametrize('name', MODELS)
def test_open_gates_change_nothing(name):
    check_open_gates(build(name), ALL, run, flops, FRAMES)


CASES = [
    ('sees', ALL[:1], 'random'),
    ('sees', ('head', 'conv_module'), 'half'),
    ('sees', ('attn_layer', 'ffn_layer', 'conv_layer'), 'random'),
    ('sees', ALL, 'random'),
    ('sees', ALL, 'closed'),
    ('wide heads', ALL[:4], 'half'),
    ('merged', ('ffn', 'conv_module', 'attn_layer'), 'random'),
    ('hears', ALL[:4], 'random'),
    ('hears', ALL[:1], 'closed'),
]

@pytest.mark.parametrize('name, units, logits', CASES)
def test_sliced_is_gated(name, units, logits, tmp_path):
    rounds = check_rounds(build(name), units, LOGITS[logits], run, flops, FRAMES, tmp_path/'model')
    assert rounds == (1 if (units, logits) == (ALL, 'closed') else 2)   # closed: nothing of a unit was left


@pytest.mark.parametrize('name', MODELS)
def test_padding_changes_nothing(name):
    "The second clip alone, for a model whose gates are on and for its slices."
    model = build(name)
    gates = gate_(model, ('conv', 'head', 'ffn', 'conv_module'))
    set_logits(gates, LOGITS['random'])
    for _ in range(2):
        lengths = torch.tensor([FRAMES, SHORT])*UNIT[model.config.stream]
        with torch.no_grad(): both, alone = model(clips(model), lengths), model(clips(model, slice(1, 2), SHORT))
        for s, t in zip([*both.hidden_states, both.last], [*alone.hidden_states, alone.last]): close(s[1, :SHORT], t[0])
        if gates: gates = prune_(model, gates) and None


@pytest.mark.parametrize('name', ['sees', 'hears'])
def test_padding_enters_no_statistics(name):
    "A padded clip leaves gradients and running statistics as the same clip alone does, dropout being off."
    padded, alone = build(name).train(), build(name).train()
    x, short = clips(padded, slice(1, 2)), torch.tensor([SHORT*UNIT[padded.config.stream]])
    padded(x, short).last[:, :SHORT].square().sum().backward()
    alone(clips(alone, slice(1, 2), SHORT)).last.square().sum().backward()
    got, want = (torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for m in (padded, alone))
    assert len(want) == numel(alone.video if padded.config.stream == 'video' else alone.frontend) + numel(alone.encoder)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5*want.abs().max().item())
    for p, q in zip(padded.buffers(), alone.buffers()): torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['QKV', 'KV'])
def test_merging(kind): check_merging(build('sees'), kind, ALL[:4], LOGITS['random'], run, flops, FRAMES)


def test_maps_on_request():
    "Maps change no output, and a sliced model has a map for each head that it has left."
    model = build('sees')
    gates = gate_(model, ('head', 'attn_layer'))
    set_logits(gates, LOGITS['half'])
    for _ in range(2):
        with torch.no_grad(): plain, seen = model(clips(model)), model(clips(model), maps=True)
        close(seen.last, plain.last)
        assert plain.maps is None and len(seen.maps) == 2
        for m, layer in zip(seen.maps, model.encoder.layers):
            assert (m is None) == (layer.attn is None)
            if m is not None: close(m.sum(-1), torch.ones(2, layer.attn.part.num_heads, FRAMES))
        if gates: gates = prune_(model, gates) and None


def test_training_reaches_every_weight():
    "With gates on, one loss has gradients for weights, logits, both position biases and both heads."
    model = build('sees').train()
    gate_(model, ALL)
    out = model(clips(model), torch.tensor([FRAMES, SHORT]))
    logits = model.decode_logits(out, TOKENS)
    (logits.square().sum() + model.ctc_log_probs(out)[out.valid].square().sum()).backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    assert [n for n, g in grads.items() if g is None or not g.isfinite().all()] == []
    assert [n for n, g in grads.items() if 'log_alpha' not in n and not g.any()] == []   # open gates may have none


def test_smallest_weights_go_first():
    "Shrinking by weight norms reaches the channels of the convolutions over time."
    model = build('sees')
    conv = model.encoder.layers[0].conv.part
    with torch.no_grad():
        for p in (conv.in_proj.weight, conv.in_gate.weight, conv.depthwise.weight): p[::2] *= 1e-3
        conv.out_proj.weight[:, ::2] *= 1e-3
    masks = l1_masks(model, 0.05, ('conv_module',))
    kept = masks['encoder.layers.0.channels'].nonzero().flatten()
    assert set(range(1, 48, 2)) <= set(kept.tolist()) and len(kept) < 48
    cut_(model, masks)
    assert model.encoder.layers[0].conv.part.depthwise.out_channels == len(kept)
    assert run(model).isfinite().all()


def test_what_was_seen_serves_again():
    "Evaluation under many noises looks at the pictures once, and puts what was seen in place of the front-end."
    model = build('sees')
    batch = dict(video=CLIPS['video'], padding_mask=torch.arange(FRAMES) >= torch.tensor([[FRAMES], [SHORT]]))
    seen = video_features(model, batch)
    before = run(model)
    with features_as_video(model, seen): close(run(model), before)
    assert model.video.proj.out_features == 48   # the front-end is back


def test_emptied_entries_go():
    "What has no weight left is cut out, in every part of a layer, and the model computes what it did."
    model = build('sees')
    first, second = (layer.branches() for layer in model.encoder.layers)
    with torch.no_grad():
        for p in (first['macaron'].part.fc1.weight, first['macaron'].part.fc1.bias): p[3] = 0
        for p in (first['conv'].part.norm.weight, first['conv'].part.norm.bias): p[5:7] = 0
        first['conv'].part.out_proj.weight[:, 0] = 0
        heads = second['attn'].part
        for p in (heads.v_proj.weight, heads.v_proj.bias): p[heads.head_dim:2*heads.head_dim] = 0
        for p in (second['ffn'].part.fc2.weight, second['ffn'].part.fc2.bias): p.zero_()
    before = run(model)
    report = cut_emptied_(model)
    close(run(model), before)
    gone = {name: d['before'] - d['after'] for name, d in report.dims.items()}
    layers = 'encoder.layers'
    assert gone == {f'{layers}.0.macaron': 1, f'{layers}.0.channels': 3, f'{layers}.1.heads': 1, f'{layers}.1.ffn': 20,
                    f'{layers}.1.ffn_layer': 1}


PUBLISHED = {'base_s': 56_350_770, 'base_l': 250_383_410}

@pytest.mark.parametrize('size, published', PUBLISHED.items())
def test_published_sizes(size, published):
    config = VSR_SIZES[size]
    model = unfilled_model(VSR, config)
    assert numel(model) == count_params(model) == published
    table = collect(model)
    kept = {n: max(d.min_size, d.size//3) for n, d in table.dims.items()}
    assert size_polynomial(table)(kept) == numel(unfilled_model(VSR, config.resized(kept)))
