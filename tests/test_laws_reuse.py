"The laws of compression for models of every family whose layers reuse attention maps: see DESIGN.md."
import json
from dataclasses import replace
import pytest, torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from avcomp.compress.dims import collect, count_macs, count_params
from avcomp.compress.emptied import cut_emptied_
from avcomp.compress.gates import gate_
from avcomp.compress.l1 import l1_masks
from avcomp.compress.merging import Merging, collapse_, merge_
from avcomp.compress.pruning import cut_, prune_
from avcomp.compress.reuse import Reuse, reuse_
from avcomp.core import config_from_json, config_to_json
from avcomp.models.armhubert import armhubert_config
from avcomp.models.avhubert import avhubert_config
from avcomp.models.checkpoints import load_model
from avcomp.models.hubert import hubert_config
from avcomp.models.vsr import vsr_config
from avcomp.settings import digest, from_data, to_data
from avcomp.train.engine import finished, run as train
from avcomp.train.progress import resume_point
from laws import check_merging, check_open_gates, check_rounds, close, multiplications, set_logits
from toy import corpus, job, parts, stopped_at, weights

WAVE = dict(conv_dims=(6,)*7, embed_dim=48, ffn_dim=20, pos_kernel=8, pos_groups=4)
SIGHT = dict(embed_dim=48, ffn_dim=20, video_widths=(4, 6, 8, 10))
ARM = dict(conv_dims=(6,)*8 + (48,), embed_dim=48, ffn_dim=20, pos_kernel=8, pos_groups=4, target_dim=10)
OWN = True, False, False, True
MODELS = {   # config with layers that make all maps, then what is changed
    'hubert': lambda **kw: hubert_config('hubert_tiny', **WAVE | kw),
    'hubert large': lambda **kw: hubert_config('hubert_tiny', **WAVE | dict(norm_first=True, head_dim=5) | kw),
    'wav2vec2': lambda **kw: hubert_config('wav2vec2_tiny', **WAVE | kw),
    'wavlm': lambda **kw: hubert_config('wavlm_tiny', **WAVE | kw),
    'avhubert': lambda **kw: avhubert_config('tiny', **SIGHT, pos_kernel=8, pos_groups=4, head='none', **kw),
    'vsr': lambda **kw: vsr_config('tiny', **SIGHT, num_layers=4, conv_kernel=5, decoder_layers=0, vocab_size=8, **kw),
    'armhubert': lambda **kw: armhubert_config('maskhubert_tiny', **ARM | dict(reuse_softmax='twice') | kw),
}
UNITS = 'head', 'ffn', 'attn_layer', 'ffn_layer'
LOGITS = {
    'random': lambda p: torch.randn_like(p)*2,
    'closed': lambda p: torch.full_like(p, -9.),
    'half': lambda p: torch.arange(len(p)) % 2*8. - 4,
}
FRAMES, SHORT = 6, 4
N = 400 + 320*(FRAMES-1)
GENERATOR = torch.Generator().manual_seed(1)
WAV, FACES, FBANK = (torch.randn(2, *shape, generator=GENERATOR) for shape in ((N,), (FRAMES, 88, 88), (FRAMES, 104)))
PADDED = torch.arange(FRAMES) >= torch.tensor([[FRAMES], [SHORT]])
pytestmark = pytest.mark.filterwarnings('ignore:Initializing zero-element')


def dense(name, **kwargs):
    "A small model with norms, biases and positions away from their defaults, whose layers make their own maps."
    torch.manual_seed(0)
    config = MODELS[name](**kwargs)
    model = config.model_cls(config).eval()
    with torch.no_grad():
        for n, t in model.state_dict().items():
            if not t.is_floating_point(): continue
            if 'running' in n or 'bn' in n: t.copy_(torch.rand_like(t) + .5)
            elif n.endswith('bias') or 'norm' in n or 'gate_const' in n: t.add_(torch.randn_like(t)*.3)
            elif 'rel_embed' in n: t.normal_()
            elif 'layers' in n: t.mul_(3)
    return model

def build(name):
    model = dense(name)
    reuse_(model, OWN)
    return model

def inputs(model, rows=slice(None), frames=None):
    "Clips, both as long as they can be, or cut to so many frames."
    if 'wav' in model.inputs: return dict(wav=WAV[rows, :frames and 400 + 320*(frames-1)])
    clip = dict(video=FACES[rows, :frames])
    return clip if model.family == 'vsr' else clip | dict(audio=FBANK[rows, :frames])

def padded(model):
    "Two clips of different length."
    said = dict(lengths=torch.tensor([N, N-640])) if 'wav' in model.inputs else dict(padding_mask=PADDED)
    return inputs(model) | said

@torch.no_grad()
def run(model):
    out = model(**padded(model))
    heads = out.projections or []
    return torch.cat([h[out.valid] for h in [*out.hidden_states, out.last, *heads]], -1)

def flops(model):
    clip = inputs(model, slice(1))
    return multiplications(lambda: model(**clip))


@pytest.mark.parametrize('name', MODELS)
def test_open_gates_change_nothing(name):
    "Law 1, and sizes: queries, keys and half of the products over time are gone, of every layer that reuses."
    before, model = dense(name), build(name)
    D = 48
    d = 5 if name == 'hubert large' else 12
    saved, macs = 2*(D*4*d + 4*d), 2*D*4*d*FRAMES + 4*d*FRAMES**2
    if name == 'wavlm': saved, macs = saved + 8*d + 8 + 4, macs + 4*8*d*FRAMES               # its gates of positions
    if name == 'vsr': saved, macs = saved + 4*d*D + 2*4*d, macs + (2*FRAMES-1)*(4*d*D + FRAMES*4*d)   # its distances
    assert count_params(before) - count_params(model) == 2*saved
    assert count_macs(before, FRAMES) - count_macs(model, FRAMES) == 2*macs
    check_open_gates(model, UNITS, run, flops, FRAMES)


CASES = [(name, UNITS, 'random') for name in MODELS]
CASES += [(name, UNITS[:3], 'half') for name in ('hubert', 'wavlm')]
CASES += [('hubert', UNITS, 'closed'), ('wavlm', ('head',), 'closed')]

@pytest.mark.parametrize('name, units, logits', CASES)
def test_sliced_is_gated(name, units, logits, tmp_path):
    "Laws 2 to 4."
    assert check_rounds(build(name), units, LOGITS[logits], run, flops, FRAMES, tmp_path/'model')


@pytest.mark.parametrize('name', ['hubert', 'vsr'])
def test_heads_are_tied(name):
    "A head that is pruned goes in the owner and in all that read by its map; an owner that lends keeps its attention."
    model = build(name)
    table = collect(model)
    heads = {n: d for n, d in table.dims.items() if d.unit == 'head'}
    assert list(heads) == [f'encoder.layers.{i}.heads' for i in (0, 3)]
    assert [d.min_size for d in table.dims.values() if d.unit == 'attn_layer'] == [1, 0, 0, 0]
    gates = gate_(model, ('head', 'attn_layer'))
    set_logits(gates, lambda p: torch.full_like(p, 9.))
    with torch.no_grad():
        gates.gates['encoder.layers.0.heads'].log_alpha.copy_(torch.tensor([9., -9., -9., 9.]))
        gates.gates['encoder.layers.0.attn_layer'].log_alpha.fill_(-9.)
        gates.gates['encoder.layers.2.attn_layer'].log_alpha.fill_(-9.)
    before = run(model)
    prune_(model, gates)
    close(run(model), before)
    attentions = [layer.attention for layer in model.transformer.layers]
    assert [a and a.num_heads for a in attentions] == [2, 2, None, 4]
    with torch.no_grad(): maps = model(**inputs(model), maps=True).maps
    assert maps[1] is maps[0] and maps[2] is None and maps[0].shape == (2, 2, FRAMES, FRAMES)


@pytest.mark.parametrize('name', MODELS)
def test_padding_changes_nothing(name):
    "Law 6: the second clip alone, and two clips of one length, for a model whose gates are on and for its slices."
    model = build(name)
    gates = gate_(model, UNITS[:2])
    set_logits(gates, LOGITS['random'])
    for _ in range(2):
        with torch.no_grad():
            both, alone = model(**padded(model)), model(**inputs(model, slice(1, 2), SHORT))
            equal, whole = model(**inputs(model)), model(**inputs(model, slice(1, 2)))
        for s, t in zip([*both.hidden_states, both.last], [*alone.hidden_states, alone.last]): close(s[1, :SHORT], t[0])
        close(equal.last[1:], whole.last)
        if gates: gates = prune_(model, gates) and None


@pytest.mark.parametrize('name, kind', [('hubert', 'QKV'), ('hubert', 'QK'), ('wavlm', 'KV'), ('vsr', 'QKV')])
def test_merging(name, kind):
    "Law 5, and both orders of merging and reuse."
    check_merging(build(name), kind, UNITS[:2], LOGITS['random'], run, flops, FRAMES)
    first, second = dense(name), dense(name)
    merge_(first, kind)
    second.load_state_dict(first.state_dict())
    reuse_(first, OWN)
    collapse_(first, kind)
    collapse_(second, kind)
    reuse_(second, OWN)
    assert first.config == second.config
    close(run(first), run(second))


def test_what_nobody_reuses_stays_with_the_fused_kernel():
    "Layers that lend nothing run on it; a layer that lends, and one that reuses, do not."
    model, kernels = build('hubert'), []
    real = torch.nn.functional.scaled_dot_product_attention
    def counted(*args): return kernels.append(1) or real(*args)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        patch.setattr('avcomp.models.attention.F.scaled_dot_product_attention', counted)
        model(**inputs(model))
    assert len(kernels) == 1   # of four layers: one lends, two reuse


@pytest.mark.parametrize('name', ['wavlm', 'vsr', 'armhubert'])
def test_training_reaches_every_weight(name):
    "Gradients flow through a lent map into its owner, positions included, with gates and dropout on."
    model = dense(name, dropout=.1, attention_dropout=.1)
    reuse_(model, (True, False, False, False))
    owner = model.transformer.layers[0].attention
    with torch.no_grad(): owner.out_proj.weight.zero_()   # so that the map is of no use but to others
    model.train()
    gate_(model, UNITS[:2])
    out = model(**padded(model))
    states = [*out.hidden_states[2:], *(out.projections or [])]
    (sum(s[out.valid].square().sum() for s in states) + model.encoder.norm(out.last).sum()*0).backward()
    used = {n: p.grad for n, p in model.named_parameters() if not n.startswith(('mask_emb', 'ctc_head'))}
    assert [n for n, g in used.items() if g is None or not g.isfinite().all()] == []
    assert owner.q_proj.weight.grad.abs().max() > 0


def test_layers_that_lend_are_never_skipped():
    "LayerDrop leaves out what nobody reads by."
    model = dense('hubert', layerdrop=.9)
    reuse_(model, (True, False, True, True))
    model.train()
    for seed in range(20):
        torch.manual_seed(seed)
        out = model(**inputs(model), maps=True)
        assert out.maps[0] is not None and (out.maps[1] is None or out.maps[1] is out.maps[0])


@pytest.mark.parametrize('name', ['hubert', 'wavlm'])
def test_other_baselines(name):
    "Shrinking by weight norms, and cutting out what has no weight left, see tied heads as one."
    model = build(name)
    cut_(model, l1_masks(model, 0.3, ('head', 'ffn')))
    assert run(model).isfinite().all()
    model = build(name)
    with torch.no_grad():
        for i in (0, 1, 2): model.encoder.layers[i].self_attn.out_proj.weight[:, :12] = 0
        model.encoder.layers[3].self_attn.v_proj.weight[12:24] = 0
        model.encoder.layers[3].self_attn.v_proj.bias[12:24] = 0
        model.encoder.layers[0].self_attn.out_proj.weight.zero_()
        model.encoder.layers[0].self_attn.out_proj.bias.zero_()
    before = run(model)
    report = cut_emptied_(model)
    close(run(model), before)
    assert {n: d['after'] for n, d in report.dims.items()} == {f'encoder.layers.{i}.heads': 3 for i in (0, 3)}


def test_configs_of_before_are_written_as_before():
    "The field is there only where it says something, and is read back."
    for name in MODELS:
        config = MODELS[name]()
        assert 'own_maps' not in config_to_json(config)
        reusing = replace(config, own_maps=OWN)
        assert config_from_json(config_to_json(reusing)) == reusing and digest(reusing) != digest(config)


def test_trained_stopped_and_resumed(job, tmp_path):
    "The method in a stage beside gates and merging: what was stopped and resumed ends bit by bit as what ran through."
    plain = job('smoke_audio pruning', tmp_path/'plain')
    gates, = (m for m in plain.stage.methods if m.kind == 'gates')
    methods = Reuse(), replace(gates, multiples=(), target=0.4), Merging('QK', step=2)
    settings = {'methods': methods, 'fit.updates': 5}
    def make(name): return job('smoke_audio pruning', tmp_path/name, settings, checkpoint_every=3)
    stopped, whole = make('stopped'), make('whole')
    with stopped_at(4): train(stopped)
    assert resume_point(tmp_path/'stopped'/'last.ckpt', stopped.id) == 3
    report = train(stopped)['methods']
    assert train(whole)['methods'] == report and finished(stopped)['resumed']
    a, b = weights(tmp_path/'stopped'), weights(tmp_path/'whole')
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    model = load_model(tmp_path/'whole'/'model')
    assert model.config.own_maps == (True, False) == tuple(report['reuse']['own_maps'])
    assert model.config.shared == 'QK' and count_params(model) == report['merge']['params'][1]
    assert from_data(None, json.loads(json.dumps(to_data(whole)))) == whole and whole.id != plain.id
