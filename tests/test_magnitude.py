"Magnitude pruning on every family: masks are exact, stay exact in training, in files, after cutting; see DESIGN.md."
import math
from copy import deepcopy
import pytest, torch
from laws import close
from toy import corpus, job, parts, stopped_at, weights
from avcomp import apply_masks_, load_model, magnitude_masks, save_model
from avcomp.compress.dims import collect, count_params
from avcomp.compress.emptied import cut_emptied_
from avcomp.compress.gates import along_axis
from avcomp.compress.l1 import l1_masks
from avcomp.compress.magnitude import nonzero_masks, prunable_weights, sparsity_of
from avcomp.compress.merging import collapse_
from avcomp.compress.method import attach_methods
from avcomp.compress.patterns import pattern_masks
from avcomp.compress.pruning import cut_
from avcomp.compress.sparse_training import Magnitude
from avcomp.models.avhubert import AVHubert, avhubert_config
from avcomp.models.avhubert_s2s import AVHubertS2S, avhubert_s2s_config
from avcomp.models.hubert import hubert_config
from avcomp.models.vsr import VSR, vsr_config
from avcomp.train.engine import finished, run
from avcomp.train.progress import resume_point
from avcomp.train.rewinding import run_method

pytestmark = pytest.mark.filterwarnings('ignore:Initializing zero-element')
G = torch.Generator().manual_seed(1)
T, TOKENS = 6, torch.tensor([[2, 5, 6, 7], [2, 8, 9, 1]])
HEARD, SEEN = torch.randn(2, T, 104, generator=G), torch.randn(2, T, 88, 88, generator=G)
WAV = torch.randn(2, 2000, generator=G)
PADDED = torch.arange(T) >= torch.tensor([[T], [4]])
AV = dict(audio=HEARD, video=SEEN, padding_mask=PADDED)
NARROW = dict(embed_dim=48, ffn_dim=20, num_layers=2)
ENCODER = NARROW | dict(video_widths=(4, 6, 8, 10), pos_kernel=8, pos_groups=4, head='none')
LISTENER = NARROW | dict(conv_dims=(10, 12, 8, 8, 8, 14, 16), pos_kernel=8, pos_groups=4, vocab_size=9)
LARGE = dict(conv_norm='layer', conv_bias=True, norm_first=True)

def audio_visual(): return AVHubert(avhubert_config('tiny', **ENCODER))

def with_decoder():
    encoder = avhubert_config('tiny', **ENCODER)
    return AVHubertS2S(avhubert_s2s_config('tiny', encoder, ffn_dim=22, vocab_size=16, ctc=True))

def reader(**kwargs):
    config = vsr_config('tiny', **NARROW, vocab_size=16, decoder_layers=1, decoder_ffn_dim=22, **kwargs)
    return VSR(config)

def listener(size, **kwargs):
    config = hubert_config(size, **LISTENER | kwargs)
    return config.model_cls(config)

FAMILIES = {   # name -> maker of a model, inputs
    'avhubert': (audio_visual, AV),
    'avhubert_s2s': (with_decoder, AV),
    'hubert': (lambda: listener('hubert_tiny'), dict(wav=WAV)),
    'hubert large': (lambda: listener('hubert_tiny', **LARGE), dict(wav=WAV)),
    'wav2vec2': (lambda: listener('wav2vec2_tiny'), dict(wav=WAV)),
    'wavlm': (lambda: listener('wavlm_tiny'), dict(wav=WAV)),
    'vsr': (lambda: reader(video_widths=(4, 6, 8, 10)), dict(video=SEEN, padding_mask=PADDED)),
    'vsr that hears': (lambda: reader(stream='wav', wav_widths=(4, 6, 8, 10)), dict(wav=WAV)),
}

@pytest.fixture(params=FAMILIES)
def family(request):
    "A small model with norms and statistics away from their defaults, and its inputs."
    torch.manual_seed(0)
    make, inputs = FAMILIES[request.param]
    model = make().eval()
    with torch.no_grad():
        for name, t in model.state_dict().items():
            if 'running' in name: t.copy_(torch.rand_like(t) + .5)
            elif name.endswith('bias') or 'norm' in name and t.is_floating_point(): t.add_(torch.randn_like(t)*.3)
    return model, inputs

def written(model, inputs):
    "All that a model says of clips: encoder output, and logits of its heads."
    out = model.encode(**inputs)
    found = [out.last[out.valid]]
    if 'decoder' in model.heads: found.append(model.decode_logits(out, TOKENS))
    if 'ctc_head' in model.heads: found.append(model.ctc_log_probs(out)[out.valid])
    return torch.cat([f.flatten() for f in found])

def run_without_gradients(model, inputs):
    with torch.no_grad(): return written(model.eval(), inputs)

def bits(tensor): return tensor.detach().contiguous().view(torch.int32)

def by_sorting(model, sparsity):
    "The masks of one long, sorted list: of equal magnitudes the first go."
    found = prunable_weights(model)
    flat = torch.cat([w.detach().abs().flatten() for w in found.values()])
    keep = torch.ones(len(flat), dtype=torch.bool)
    keep[flat.sort(stable=True).indices[:round(sparsity*len(flat))]] = False
    return {n: k.view_as(found[n]) for n, k in zip(found, keep.split([w.numel() for w in found.values()]))}

def test_masks_are_exact(family):
    model, _ = family
    with torch.no_grad():   # ties
        for w in prunable_weights(model).values(): w.copy_((50*w).round()/50)
    for sparsity in (0., 0.1, 0.5, 0.9, 0.999):
        masks, wanted = magnitude_masks(model, sparsity), by_sorting(model, sparsity)
        assert masks.keys() == wanted.keys() and all(torch.equal(masks[n], wanted[n]) for n in masks)

def test_applied_and_stored(family, tmp_path):
    "What is masked is +0, all else as before; a packed file is smaller and gives the same bits."
    model, inputs = family
    before, masks = deepcopy(model), magnitude_masks(model, 0.9)
    apply_masks_(model, masks)
    for name, t in model.state_dict().items():
        old = before.state_dict()[name]
        wanted = old.where(masks[name], torch.zeros(())) if name in masks else old
        assert torch.equal(wanted, t) and (not t.is_floating_point() or torch.equal(bits(wanted), bits(t)))
    packed, whole = save_model(model, tmp_path/'packed', packed=True), save_model(model, tmp_path/'whole')
    back = load_model(packed)
    assert back.config == model.config
    for (name, a), b in zip(back.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(bits(a), bits(b)), name
    assert torch.equal(run_without_gradients(back, inputs), run_without_gradients(load_model(whole), inputs))
    zeros, total = sum(int((~m).sum()) for m in masks.values()), count_params(model)
    small, large = ((folder/'model.safetensors').stat().st_size for folder in (packed, whole))
    assert small < large - 4*zeros + total/8 + 200*len(masks)

def test_frozen_exactly(family):
    "Three updates with momentum and decay; the optimizer has seen the dense weights before."
    model, inputs = family
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1)
    def update(running=()):
        for r in running: r.before(0)
        opt.zero_grad()
        written(model.train(), inputs).square().mean().backward()
        opt.step()
        for r in running: r.after(1)
    update()
    masks, (running,) = magnitude_masks(model, 0.7), attach_methods((Magnitude(0.7),), model)
    dense = {n: w.detach().clone() for n, w in prunable_weights(model).items()}
    for _ in range(3):
        update([running])
        for name, w in prunable_weights(model).items(): assert (bits(w)[~masks[name]] == 0).all(), name
    report, found = running.finish(), prunable_weights(model)
    P = sum(w.numel() for w in found.values())
    assert report['sparsity'] == sum(int((w == 0).sum()) for w in found.values())/P == round(0.7*P)/P
    still = [n for n, w in found.items() if masks[n].any() and torch.equal(w[masks[n]], dense[n][masks[n]])]
    assert not still
    update()                                             # an ordinary model again: nothing holds it any more
    assert any((w[~masks[n]] != 0).any() for n, w in found.items())

def test_merged_and_sliced(family):
    model, inputs = family
    if collect(model).merges: collapse_(model, 'QK')
    cut_(model, l1_masks(model, 0.3))
    for masks, share in ((magnitude_masks(model, 0.6), 0.6), (pattern_masks(model, pattern='2:4'), 0.5),
                         (pattern_masks(model, 0.6, '2x1'), 0.6)):
        sparse = apply_masks_(deepcopy(model), masks)
        assert abs(sparsity_of(masks) - share) < 1e-3
        assert all(torch.equal(found, masks[n]) for n, found in nonzero_masks(sparse).items() if n in masks)
        assert run_without_gradients(sparse, inputs).isfinite().all()

def test_what_is_emptied_is_cut(family, tmp_path):
    "Readers of random entries are zero, in every dimension with gates: the cut model computes the same, saved or not."
    model, inputs = family
    table, state, gone = collect(model), model.state_dict(), {}
    for g in table.gates:
        n = table.dims[g.dim].size
        if g.axis is None: continue
        keep = gone.setdefault(g.dim, torch.rand(n) > 0.4)
        for path, axis in (g.idle[0] if 'stage' in g.point and g.idle else g.into):
            t = state[path]
            t.masked_fill_(along_axis(~keep.repeat_interleave(t.shape[axis]//n), axis, t.ndim), 0)
    before, sizes = run_without_gradients(model, inputs), table.sizes()
    report = cut_emptied_(model)
    close(run_without_gradients(model, inputs), before)
    left = collect(model)
    for name, keep in gone.items():
        least = max(int(keep.sum()), table.dims[name].min_size)
        assert left.dims[name].size <= least, name
    assert report.params[0] > report.params[1] == count_params(model)
    assert all(report.dims[name]['before'] == sizes[name] for name in report.dims)
    close(run_without_gradients(load_model(save_model(model, tmp_path)), inputs), before)

MISFITS = {   # keyword arguments of magnitude_masks, what the message says
    'sparsity of 1': (dict(sparsity=1), 'in [0, 1); got 1'),
    'negative sparsity': (dict(sparsity=-0.1), 'in [0, 1); got -0.1'),
    'percent': (dict(sparsity=50), 'in [0, 1); got 50'),
    'no number': (dict(sparsity=math.nan), 'in [0, 1); got nan'),
    'filter without a match': (dict(modules=('nobody.*',)), "'nobody.*' matches no linear or convolutional layer"),
    'all spared': (dict(spared=('*',)), 'leaves no weights to rank'),
    'earlier masks of another model': (dict(earlier={'w': torch.ones(3, dtype=torch.bool)}), 'masks of another model'),
}

@pytest.mark.parametrize('what', MISFITS)
def test_bad_input(what):
    kwargs, message = MISFITS[what]
    model = FAMILIES['hubert'][0]()
    with pytest.raises(ValueError) as e: magnitude_masks(model, **kwargs)
    assert message in str(e.value)

def test_masks_of_another_model():
    a, b, c = (listener('hubert_tiny', **kwargs) for kwargs in ({}, dict(ffn_dim=24), dict(num_layers=3)))
    before = deepcopy(a.state_dict())
    for other, message in ((b, 'is a weight of shape (20, 48), got a mask of shape (24, 48)'),
                           (c, 'it has no weights')):
        with pytest.raises(ValueError) as e: apply_masks_(a, magnitude_masks(other))
        assert message in str(e.value) and 'masks of another model' in str(e.value)
    broken = listener('hubert_tiny')
    with torch.no_grad(): broken.ctc_head.weight[0, 0] = math.nan
    for make in (magnitude_masks, pattern_masks):
        with pytest.raises(ValueError, match='ctc_head.weight has weights that are not finite'):
            make(broken, modules=('ctc_head',))
    assert all(torch.equal(before[k], t) for k, t in a.state_dict().items())

@pytest.mark.parametrize('enforce', [True, False])
def test_stopped_and_resumed(job, parts, tmp_path, enforce):
    "A run that was stopped ends as one that was not; its checkpoint carries the masks as bits."
    method = Magnitude(0.6, of=str(parts/'listener'), enforce=enforce, pattern='' if enforce else '2x1')
    stage = {'fit.updates': 4, 'fit.max_frames': 90, 'fit.optimizer.lr': 0.05, 'methods': (method,)}
    stopped, whole = (job('smoke_audio distill', tmp_path/n, stage, checkpoint_every=2) for n in ('stopped', 'whole'))
    with stopped_at(3): run(stopped)
    ckpt = tmp_path/'stopped'/'last.ckpt'
    assert finished(stopped) is None and resume_point(ckpt, stopped.id) == 2
    packed = torch.load(ckpt, weights_only=True)['state_dict']['running.0._extra_state']
    ranked = load_model(parts/'listener')
    assert {p.dtype for p in packed.values()} == {torch.uint8}
    assert sum(p.numel() for p in packed.values()) < 1.1*sum(w.numel() for w in prunable_weights(ranked).values())/8
    reports = [run(j)['methods']['magnitude'] for j in (stopped, whole)]
    a, b = weights(tmp_path/'stopped'), weights(tmp_path/'whole')
    assert reports[0] == reports[1] and all(torch.equal(a[k], b[k]) for k in b)
    found, wanted = nonzero_masks(load_model(tmp_path/'whole'/'model')), method.masks(ranked)
    same = all(torch.equal(found[n], wanted[n]) for n in wanted)
    assert same == enforce and abs(reports[0]['sparsity'] - 0.6) < 0.01

def test_an_epoch_that_was_never_stored(job, tmp_path):
    "is an error before anything runs, whatever the method."
    dense = job('smoke_audio distill', tmp_path/'dense', {'fit.updates': 15, 'fit.keep': (0, 5)})
    for method in ('lth', 'iterative_lth'):
        with pytest.raises(ValueError, match=r'keeps its weights at \(0, 5\), and not at 10'):
            run_method(dense, method, (0.5,), tmp_path/'rounds', rewind=10)
    assert not list(tmp_path.iterdir())
