"The laws of compression for AV-HuBERT with every activation of its ResNet and heads of any width: see DESIGN.md."
import pytest, torch
from avcomp.compress.gates import gate_
from avcomp.models.avhubert import AVHubert, avhubert_config
from laws import check_open_gates, check_rounds, close, multiplications

MODELS = {
    'prelu': {},
    'relu': dict(video_activation='relu', head_dim=20),
    'swish': dict(video_activation='swish', fusion='add'),
    'swish, wide stem': dict(video_activation='swish', video_stride=2, head_dim=5),
}
LOGITS = {
    'random': lambda p: torch.randn_like(p)*2,
    'closed': lambda p: torch.full_like(p, -9.) + torch.arange(len(p))*.01,
    'half': lambda p: torch.arange(len(p)) % 2*8. - 4,
}
FRAMES = 5
GENERATOR = torch.Generator().manual_seed(1)
AUDIO = torch.randn(2, FRAMES, 104, generator=GENERATOR)
VIDEO = torch.randn(2, FRAMES, 88, 88, generator=GENERATOR)
MASK = torch.arange(FRAMES) >= torch.tensor([[FRAMES], [3]])
pytestmark = pytest.mark.filterwarnings('ignore:Initializing zero-element')


def build(name):
    "A small model with statistics, norms and biases away from their defaults."
    torch.manual_seed(0)
    small = dict(video_widths=(4, 6, 8, 10), embed_dim=48, ffn_dim=20, num_layers=2, pos_kernel=8, pos_groups=4)
    model = AVHubert(avhubert_config('tiny', **small | MODELS[name])).eval()
    with torch.no_grad():
        for n, t in model.state_dict().items():
            if 'running' in n or 'bn' in n and t.is_floating_point(): t.copy_(torch.rand_like(t) + .5)
            elif n.endswith('bias') or 'norm' in n: t.add_(torch.randn_like(t)*.3)
    return model


@torch.no_grad()
def run(model):
    out = model(AUDIO, VIDEO, MASK)
    return torch.cat([h[out.valid] for h in [*out.hidden_states, out.last]], -1)

def flops(model): return multiplications(model, AUDIO[:1], VIDEO[:1])


@pytest.mark.parametrize('name', MODELS)
def test_open_gates_change_nothing(name):
    check_open_gates(build(name), ('conv', 'head', 'ffn'), run, flops, FRAMES)


@pytest.mark.parametrize('logits', LOGITS)
@pytest.mark.parametrize('name', MODELS)
def test_sliced_is_gated(name, logits, tmp_path):
    units = ('conv', 'ffn') if logits == 'closed' else ('conv', 'head', 'ffn')
    rounds = check_rounds(build(name), units, LOGITS[logits], run, flops, FRAMES, tmp_path/'model')
    assert rounds == (1 if logits == 'closed' else 2)   # closed: nothing of 'ffn' is left


@pytest.mark.parametrize('name', MODELS)
def test_padding_changes_nothing(name):
    model = build(name)
    with torch.no_grad(): both, alone = model(AUDIO, VIDEO, MASK), model(AUDIO[1:, :3], VIDEO[1:, :3])
    for s, t in zip([*both.hidden_states, both.last], [*alone.hidden_states, alone.last]): close(s[1, :3], t[0])


def test_training_reaches_every_weight():
    model = build('swish').train()
    gates = gate_(model, ('conv', 'head', 'ffn'))
    model(AUDIO, VIDEO, MASK).last.square().sum().backward()
    unused = 'cluster_emb', 'mask_emb', 'final_proj'
    dead = [n for n, p in model.named_parameters() if p.grad is None and not n.startswith(unused)]
    assert dead == [] and all(p.grad.isfinite().all() for p in gates.parameters())


def test_swish_cannot_move_gates_back():
    "The test above can fail: a gate of SiLU that is folded into the norms before it gives other outputs."
    model = build('swish')
    x = torch.linspace(-2, 2, 9)
    act = model.video.stage2[0].act2
    assert (act(0.5*x) - 0.5*act(x)).abs().max() > 0.05
    assert model.video.stage2[0].out_scale is not None and model.video.stage2[1].out_scale is None
