"The regulariser of DPHuBERT on gates alone: sizes, multipliers and gate logits follow the published code."
import json, zlib
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from avcomp.compress.gates import INIT_DROP, gate_
from avcomp.compress.lagrangian import Lagrangian
from avcomp.models.hubert import Hubert, HubertConfig, hubert_config
from avcomp.train.schedules import linear_warmup_decay

CASE = Path(__file__).parent/'golden/dphubert/lagrangian'
OURS = {'attention.hard_concrete_for_heads': 'heads', 'feed_forward.hard_concrete_for_intermediate': 'ffn'}
NUMBERS = 'sparsity', 'lambda1', 'lambda2'
DIMS = 'frontend.conv0', 'encoder.layers.0.heads', 'encoder.layers.0.ffn'
BASE = {   # updates done -> NUMBERS, mean logits of DIMS
    0: (0.101774, 0, 0, 4.595, 4.595, 0),
    500: (0.082787, 0.09417, 0.05845, 4.624, 4.854, 0.244),
    1000: (0.102956, -0.28902, 0.31604, 4.560, 4.582, -0.014),
    2000: (0.330897, -0.20064, 1.10038, 3.727, 2.309, -1.760),
    5000: (0.762087, 0.00211, 3.26402, 2.099, -2.876, -3.400),
}


def start(config):
    "A model without weights, and gates in double precision. The published sums count `scale`: here it is a parameter."
    with torch.device('meta'): model = Hubert(config)
    del model.frontend.scale
    model.frontend.scale = nn.Parameter(torch.empty(config.conv_dims[-1], device='meta'))
    gates = gate_(model, ('conv', 'head', 'ffn'))
    for g in gates.gates.values(): g.to_empty(device='cpu').double()
    return model, gates


def run(gates, target, sparsity_warmup, warmup, total, steps, lr=0.02):
    "Yield sparsity, target and multipliers before each update and after the last."
    reg = Lagrangian(gates, target, sparsity_warmup).double()
    groups = [dict(params=gates.parameters()), dict(params=list(reg.parameters()), maximize=True)]
    opt = torch.optim.AdamW(groups, lr=lr, weight_decay=0., fused=True)
    for n in range(steps + 1):
        loss, logs = reg(n)
        yield n, logs
        for group in opt.param_groups: group['lr'] = lr*linear_warmup_decay(n+1, warmup, total)
        opt.zero_grad()
        loss.backward()
        opt.step()


def tiny_config(c):
    "Our config of the recording's model."
    dims, kernels, strides = zip(*c['extractor_conv_layer_config'])
    return HubertConfig(conv_dims=dims, conv_kernels=kernels, conv_strides=strides, embed_dim=c['encoder_embed_dim'],
                        num_layers=c['encoder_num_layers'], ffn_dim=c['encoder_ff_interm_features'][0],
                        num_heads=c['encoder_num_heads'][0], pos_kernel=c['encoder_pos_conv_kernel'],
                        pos_groups=c['encoder_pos_conv_groups'])


def our_name(theirs):
    "Dimension of a gate of the recording."
    if theirs.startswith('feature_extractor'): return f"frontend.conv{theirs.split('.')[2]}"
    i, rest = theirs.removeprefix('encoder.transformer.layers.').split('.', 1)
    return f'encoder.layers.{i}.{OURS[rest]}'


def test_tiny_trajectory():
    meta, expected = (json.loads((CASE/f'{name}.json').read_text()) for name in ('meta', 'expected'))
    h, tol = meta['hyper'], meta['tolerance']
    model, gates = start(tiny_config(meta['config']))
    assert sum(p.numel() for p in model.parameters() if p.is_meta) == expected['teacher_total']
    with torch.no_grad():
        for theirs, g in expected['gates'].items():
            noise = np.random.RandomState(zlib.crc32(theirs.encode()) ^ meta['seed']).standard_normal(g['n'])
            logits = torch.from_numpy(g['init_mean_log_alpha'] + 0.05*noise)
            gates.gates[our_name(theirs)].log_alpha.copy_(logits)
    rows, seen = {r['updates']: r for r in expected['rows']}, 0
    for n, logs in run(gates, h['target'], h['sparsity_warmup'], h['warmup'], h['max_updates'], h['steps']):
        if n not in rows: continue
        row, seen = rows[n], seen + 1
        assert logs['sparsity'] == pytest.approx(row['s'], abs=tol['s'])
        assert logs['sparsity_target'] == pytest.approx(row['t'])
        for k in ('lambda1', 'lambda2'): assert logs[k] == pytest.approx(row[k], abs=tol['lambda'])
        for theirs, mean in row['mean_log_alpha'].items():
            got = gates.gates[our_name(theirs)].log_alpha.mean().item()
            assert got == pytest.approx(mean, abs=tol['mean_log_alpha'])
    assert seen == len(rows) == 21


def test_base_trajectory():
    "HuBERT Base with the published settings; rows of the reference note up to the end of the warm-up and beyond."
    _, gates = start(hubert_config('hubert_base'))
    with torch.no_grad():
        for n, g in gates.gates.items():
            drop = INIT_DROP[gates.table.dims[n].unit]
            g.log_alpha.fill_(torch.tensor(1/drop - 1, dtype=torch.float64).log())
    seen = 0
    for n, logs in run(gates, 0.75, 5000, 15000, 50000, 5000):
        if n not in BASE: continue
        seen += 1
        for name, want in zip(NUMBERS, BASE[n][:3]): assert logs[name] == pytest.approx(want, abs=2e-5), n
        for dim, want in zip(DIMS, BASE[n][3:]):
            assert gates.gates[dim].log_alpha.mean().item() == pytest.approx(want, abs=1e-3)
    assert seen == len(BASE)
