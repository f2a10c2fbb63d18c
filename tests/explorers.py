"""Every explorer of avcomp on small made-up numbers, with names and sizes as real runs have them.

`test_browser` shows them on one page of JupyterLab and moves every control of each."""
import ast
from pathlib import Path
from types import SimpleNamespace
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from avcomp.viz.controls import explorer, menu
from avcomp.viz.crops import crop_explorer
from avcomp.viz.densities import density_explorer
from avcomp.viz.holes import holes_explorer
from avcomp.viz.model_widgets import (by_layer_explorer, clip_explorer, confusion_explorer, corpus_explorer,
    probe_explorer, similarity_explorer)
from avcomp.viz.pareto import COSTS, pareto_explorer
from avcomp.viz.relations import NAMES, relation_explorer
from avcomp.viz.sparsities import sparsity_vs_wer_explorer
from avcomp.viz.visual_noise import visual_noise_explorer
from avcomp.viz.widgets import (gate_hist_explorer, record_explorer, robustness_explorer, series_explorer,
    size_explorer, sparsity_explorer, training_explorer)

root = Path(__file__).parents[1]

def names_of_explorers():
    "Public functions of avcomp that return a box of controls and a picture."
    found = {node.name for path in root.glob('avcomp/**/*.py') for node in ast.parse(path.read_text('utf-8')).body
             if isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) == 'widgets.VBox'}
    return sorted(found)

LAYERS, STEPS = 6, range(0, 15001, 3000)
MODELS = 'teacher', 'student', 'from scratch', 'L1 pruning', 'L1 pruning, same MACs'
WORDS = 'bin blue at f two now place green by k seven please'.split()

def random(*shape): return np.random.default_rng(0).random(shape)

def closing(groups, share):
    "Numbers in [0, 1] that begin at 1 and fall, at the last step, to a share of them."
    last = np.linspace(1, 0, groups)**(1/share)
    return np.linspace(1, last, len(STEPS))

def record():
    units = {'self_attn.head': 12, 'ffn': 64}
    rows = {f'encoder.layers.{i}.{unit}': closing(n, 1/(i + 1)) for unit, n in units.items() for i in range(LAYERS)}
    return dict(steps=list(STEPS), rows=rows)

def rates(skill):
    "Word error rates by input and condition."
    ratios = {f'{kind}@{snr}': skill + (10 - snr)/50*hard for kind, hard in (('babble', 1), ('music', .6))
              for snr in (-5, 0, 5, 10)}
    blurred = {f'blur#{level}': .3 + skill + level/20 for level in (1, 5, 10)}
    return {'av': {'clean': skill} | ratios, 'a': {'clean': 1.3*skill} | ratios, 'v': {'clean': .3 + skill} | blurred}

def sentences(wrong):
    "What was said and heard in twelve sentences, with every `wrong`-th word another."
    said = [np.roll(WORDS, i)[:6] for i in range(12)]
    def heard(i, word): return WORDS[(WORDS.index(word) + 1) % len(WORDS)] if i % wrong == 0 else word
    return [(' '.join(s), ' '.join(heard(i + j, w) for j, w in enumerate(s))) for i, s in enumerate(said)]

def mouths(frames):
    "Gray pictures of an ellipse that opens and closes."
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    opened = .1 + .4*np.sin(np.arange(frames)/3)[:, None, None]**2
    return np.where((x/.6)**2 + (y/opened)**2 < 1, 40, 180).astype(np.uint8)

def two_mouths():
    "What `explorer` draws for whoever brings a picture and controls of their own."
    def draw(matrix, share): return plt.subplots(figsize=(5, 3))[1].imshow(random(20, 40)*matrix > share).axes
    share = widgets.FloatSlider(.5, min=0, max=1, description='share')
    return explorer(draw, dict(matrix=menu('matrix', [1, 2]), share=share), 'share {share:.1f}, matrix {matrix}'.format)

def sparsity():
    units = {'self_attn.head': 'head', 'ffn': 'ffn'}
    dims = {f'encoder.layers.{i}.{name}': dict(unit=unit, before=3072, after=3072//(i + 2))
            for name, unit in units.items() for i in range(LAYERS)}
    thinner = {dim: row | dict(after=row['after']//2) for dim, row in dims.items()}
    return sparsity_explorer({'student': dims, 'student, 80 % removed': thinner})

def training():
    def falling(a): return [(s, a/(1 + s/3000) + random(len(STEPS))[i]/9) for i, s in enumerate(STEPS)]
    names = 'loss', 'loss_l1', 'loss_cos', 'sparsity', 'sparsity_target', 'lambda1', 'lr'
    return training_explorer({name: falling(1/(i + 1)) for i, name in enumerate(names)})

def sizes():
    rows = [dict(name=name, params=1e8/(i + 1), macs=2e10/(i + 1), latency_ms=400/(i + 2))
            for i, name in enumerate(MODELS)]
    return size_explorer(rows, {name: rates(.02*(i + 1)) for i, name in enumerate(MODELS)})

def densities():
    layers = [f'encoder.layers.{i}.{n}' for i in range(LAYERS) for n in ('self_attn.q_proj', 'fc1')]
    def kept(sparsity):
        return {f'{n}.weight': dict(before=10**6, after=int(10**6*(1 - sparsity)**(1 + i % 5/4)))
                for i, n in enumerate(['video.stem', *layers, 'ctc_head'])}
    return density_explorer({f'iterative LRR {s:.0%}': kept(s) for s in (.1, .5, .9)})

def sparsities():
    names = 'naive', 'fine-tuning', 'PARP', 'LTH', 'LRR', 'iterative LTH', 'iterative LRR'
    def curves(far): return {n: {0: .2} | {s/10: .2 + (s/10)**(i + 2)*far for s in (3, 5, 7, 9)}
                             for i, n in enumerate(names)}
    return sparsity_vs_wer_explorer({'this run': curves(1.2), 'published on LRS3': curves(.7)})

def pareto():
    def point(i, label, left):
        rate = .04 + (1 - left)*.1 + i/50
        costs = dict(zip(COSTS, (left*9e7, left*3.6e8, left*2.6e10, .3 + .7*left, 600*left)))
        return costs | dict(label=label, model=f'{label} {1 - left:.0%}', counted='params',
                            wer={'clean': [rate, rate + .01], 'babble@0': [2*rate, 2*rate + .02]})
    return pareto_explorer([point(i, label, left) for i, label in enumerate(('gates', 'thin student', 'L1 pruning'))
                            for left in (.15, .25, .4, .6)])

def similarity():
    def alike(n): return np.exp(-abs(np.arange(LAYERS + 1)[:, None] - np.arange(n)*LAYERS/(n - 1))/4)
    return similarity_explorer({'student': dict(cka=alike(LAYERS + 1), cosine=2*alike(LAYERS + 1) - 1),
                                'two layers': dict(cka=alike(3), cosine=2*alike(3) - 1)})

def probes():
    def probe(i, n):
        layers = .5 + .4*np.sin(np.linspace(0, 3 - i/3, n))
        return dict(layers=list(layers), weights=list(layers/layers.sum()), accuracy=.92 - i/10, baseline=.1)
    results = {name: probe(i, LAYERS + 1 - i) for i, name in enumerate(MODELS)}
    return probe_explorer({'phones': results, 'words': {name: results[name] for name in MODELS[-2:]}})

def clips():
    frames = mouths(75)
    def view(clip, condition):
        said, heard = sentences(2 + len(condition))[len(clip) % 12]
        tokens = heard.split()
        peaks = np.exp(-(np.arange(75) - np.arange(5, 75, 12)[:, None])**2/20)
        peaks /= 1 + len(condition)/9
        return dict(reference=said, hypothesis=heard, weights=peaks, tokens=tokens, frames=frames)
    conditions = 'clean', 'babble@-5', 'babble@0', 'blur#5'
    return clip_explorer(['s1_bbaf2n', 'a clip with a very long name'], view, conditions)

def corpus():
    def clip(n):
        spans = {'word': [(w, i/2, (i + 1)/2) for i, w in enumerate(WORDS[:6])],
                 'phone': [(w[0], i/4, (i + 1)/4) for i, w in enumerate(WORDS)]}
        return dict(wav=np.sin(np.arange(48000)/n)/2, frames=mouths(75), spans=spans)
    return corpus_explorer({'s1_bbaf2n': clip(9), 's2_pgbk7p': clip(30)})

def crops():
    film, inner = mouths(40), np.float64([[1, 0, -4], [0, 1, -4]])
    return crop_explorer(film, SimpleNamespace(frames=film[:, 4:92, 4:92], landmarks=96*random(40, 20, 2),
        maps=np.stack([inner]*40), confidence=random(40), quality=SimpleNamespace(line=lambda: 'a mouth in 40 frames')))

def relations():
    def model(layers, heads):
        return {way: [random(heads, 50, 50) + np.eye(50)*(i + 1) for i in range(layers)] for way in NAMES}
    found = {clip: {'teacher': model(LAYERS, 4 + i), 'student': model(LAYERS//2, 2)}
             for i, clip in enumerate(('one', 'other'))}
    return relation_explorer(list(found), found.get)

def holes():
    def render(clip, seed):
        hidden = (np.arange(100) + 7*seed + len(clip)) % 30 < 9
        return dict(hidden=hidden, errors={name: [(hidden + .2*random(100))*(i + j + 1) for i in range(LAYERS)]
                                           for j, name in enumerate(MODELS[:2])})
    return holes_explorer(['one', 'other'], render)

def by_layer():
    what = 'attention maps', 'Gram matrices of layers with their inputs'
    return by_layer_explorer({f'distance of {w}': {name: random(LAYERS)*(i + j + 1) for j, name in enumerate(MODELS)}
                              for i, w in enumerate(what)})

PAGE = {   # explorer -> it, on numbers of this module
    'by_layer_explorer': by_layer,
    'clip_explorer': clips,
    'confusion_explorer': lambda: confusion_explorer({name: {m: {c: sentences(2 + i + len(c + m)) for c in found}
        for m, found in rates(0).items()} for i, name in enumerate(MODELS)}, 12),
    'corpus_explorer': corpus,
    'crop_explorer': crops,
    'density_explorer': densities,
    'explorer': two_mouths,
    'gate_hist_explorer': lambda: gate_hist_explorer(record()),
    'holes_explorer': holes,
    'pareto_explorer': pareto,
    'probe_explorer': probes,
    'record_explorer': lambda: record_explorer({'p_open': record(), 'kept': dict(steps=[0, 9], rows={
        f'encoder.layers.{i}.{n}': [[1, 1, 1], [1, i, 0]] for i in range(2) for n in ('fc1', 'fc2')})}),
    'relation_explorer': relations,
    'robustness_explorer': lambda: robustness_explorer({name: rates(.02*(i + 1)) for i, name in enumerate(MODELS)}),
    'series_explorer': lambda: series_explorer(record(), 'p_open'),
    'similarity_explorer': similarity,
    'size_explorer': sizes,
    'sparsity_explorer': sparsity,
    'sparsity_vs_wer_explorer': sparsities,
    'training_explorer': training,
    'visual_noise_explorer': lambda: visual_noise_explorer(mouths(60), ('blur', 'block', 'compress')),
}
