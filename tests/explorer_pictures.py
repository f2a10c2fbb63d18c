"""Pictures of explorers for README.md and the notebooks: `python tests/explorer_pictures.py` writes them to nbs/images,
or those that are named.

Each is shown in JupyterLab on kept reports or by the small teacher, moved by a browser, and photographed."""
import sys
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from PIL import Image, ImageChops, ImageOps
from avcomp.data.corpora import open_corpus
from avcomp.data.synthetic import make_corpus
from avcomp.evaluate.report import heard_pieces, read_report
from avcomp.evaluate.sparse_vsr import curves_of, published_curves, rows_of
from avcomp.models.checkpoints import load_model
from avcomp.viz.model_widgets import clip_explorer
from avcomp.viz.pareto import pareto_explorer
from avcomp.viz.sparsities import sparsity_vs_wer_explorer
from avcomp.viz.widgets import robustness_explorer

root = Path(__file__).parents[1]

def noise():
    "A student, its teacher and its rivals in babble, of three seeds."
    seeds = [read_report(root/f'nbs/reports/dp_avhubert_seed{seed}.json')['wer'] for seed in range(3)]
    return robustness_explorer({model: {modality: {condition: [s[model][modality][condition]['value'] for s in seeds]
        for condition in found} for modality, found in by.items()} for model, by in seeds[0].items()})

def pruning():
    "Seven ways to take weights from a lip reader, of three seeds, and what their paper says."
    reports = [read_report(root/f'nbs/reports/sparse_vsr_seed{seed}.json') for seed in range(3)]
    ours = curves_of(rows_of(reports))
    return sparsity_vs_wer_explorer({'these runs': ours, 'published on LRS3': published_curves()})

def clip():
    "What the small teacher makes of a clip in babble; the clips are made beside the notebook."
    folder = make_corpus(Path.cwd()/'corpus', clips=(1, 1, 3), noise_files=(1, 1, 2), num_workers=0)
    corpus, teacher = open_corpus('embedded', folder), load_model(files('avcomp')/'assets'/'teacher_tiny')
    clips = {cut.id: cut for cut in corpus.cuts['test']}
    def render(id, condition): return heard_pieces(teacher, clips[id], condition, corpus.noises['test'])
    return clip_explorer(list(clips), render, ['clean', *(f'babble@{snr}' for snr in (-10, -5, 0, 5))])

def methods():
    "Students of one teacher by what they cost."
    return pareto_explorer(read_report(root/'nbs/reports/compare.json')['measured']['points'])

PICTURES = {   # function -> controls to move, by a step each
    'noise': (3,),
    'pruning': (3, 3, 3, 3),
    'clip': (0, 1),
    'methods': (0, 0, 1),
}

def cropped(path):
    "A picture without what is white around it, as small as `figure_png` makes one."
    picture = Image.open(path).convert('RGB')
    inked = ImageChops.difference(picture, Image.new('RGB', picture.size, 'white')).getbbox()
    picture = ImageOps.expand(picture.crop(inked), 12, 'white')
    return picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)

def main(*names):
    from lab import Explorer, chromium, jupyterlab, run_page
    with TemporaryDirectory() as home:
        chosen = {name: PICTURES[name] for name in names or PICTURES}
        cells = ['import explorer_pictures as pictures', *(f'pictures.{name}()' for name in chosen)]
        with jupyterlab(Path(home), cells) as address, chromium(Path(home)) as page:
            for (name, moves), area in zip(chosen.items(), run_page(page, address)):
                explorer, path = Explorer(page, area), root/f'nbs/images/{name}_explorer.png'
                for number in moves: explorer.move(number)
                explorer.photograph(path)
                cropped(path).save(path, optimize=True)

if __name__ == '__main__': main(*sys.argv[1:])
