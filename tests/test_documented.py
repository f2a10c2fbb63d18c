"""Every command line and every piece of Python that a page shows is run, on tiny stand-ins of what it names.

Where one needs a network, or is the whole test suite, what can be looked at is: targets, files, options. One that is
new has to get a line in `HOW`."""
import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest
import torch
from click.testing import CliRunner
from papermill.cli import papermill as command
from papermill.exceptions import PapermillExecutionError
from stand_ins import make_stand_ins
from warm import launch_kernel, once

from avcomp.data.corpora import BUILT_IN, open_corpus
from avcomp.train.job import Run
from avcomp.train.launch import slurm_parameters
from avcomp.train.parameters import typed_parameters
from avcomp.train.presets import table

ROOT = Path(__file__).parent.parent
PAGES = ['README.md', 'CONTRIBUTING.md', *(f'data_cards/{p.name}' for p in sorted((ROOT/'data_cards').glob('*.md'))),
         *(p.relative_to(ROOT).as_posix() for p in sorted((ROOT/'nbs').rglob('*.ipynb')))]
PAGES.remove('nbs/index.ipynb')   # README.md is made of it, and has all that it shows

# What a page shows.

FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.M | re.S)
SPAN = re.compile(r'`([^`]+)`')
PROGRAMS = r'papermill|python|pip|make|lhotse|nbdev_\w+|pre-commit|jupyter|torchrun|quarto|mkdir|\.'
LINE = re.compile(rf'(?:{PROGRAMS}) \S|nbdev_install_hooks$|\.ci/run$|-[pry] \S')   # how a command begins


@dataclass(frozen=True)
class Piece:
    "Something that a page shows."
    page:str    # path from the root
    kind:str    # 'sh' or 'python'
    text:str    # a command, or a block


def prose(page):
    "The text of a page."
    path = ROOT/page
    if path.suffix == '.md': return path.read_text(encoding='utf-8')
    cells = nbformat.read(path, as_version=4).cells
    return '\n\n'.join(c.source for c in cells if c.cell_type == 'markdown')


def commands(block):
    "The commands of a block of lines: without comments, continued lines as one."
    lines = re.sub(r'\\\n\s*', '', block).splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [shlex.join(w) for w in words if w]


def shown(page, text):
    "What a text shows, in order."
    found = []
    for language, block in FENCE.findall(text):
        if language == 'python': found.append(Piece(page, 'python', block))
        elif language in ('sh', 'bash') or LINE.match(block): found += [Piece(page, 'sh', c) for c in commands(block)]
        else: found.append(Piece(page, language, block))
    spans = [' '.join(span.split()) for span in SPAN.findall(FENCE.sub('', text))]
    return found + [Piece(page, 'sh', c) for span in spans if LINE.match(span) for c in commands(span)]


SHOWN = [piece for page in PAGES for piece in shown(page, prose(page))]


# How commands are run: a handler takes a piece, and what the tests have at hand.

def makes(piece, **_):
    "The targets and variables exist, and make accepts the line."
    _, *words = shlex.split(piece.text)
    makefile = (ROOT/'Makefile').read_text()
    known = re.findall(r'^(\w[\w-]*):|^(\w+=)', makefile.replace(' := ', '='), re.M)
    for word in words: assert any(re.match(f'{a or b}', word) for a, b in known), word
    done = subprocess.run(['make', '-n', *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr


def there(piece, **_):
    "The program is installed, and what it names in the repository exists."
    program, *words = shlex.split(piece.text)
    if program == '.':
        assert f'BIN    := {Path(words[0]).parent}\n' in (ROOT/'Makefile').read_text()
        return
    places = ROOT/program, Path(sys.executable).parent/program
    assert any(p.is_file() for p in places) or shutil.which(program), program
    assert [w for w in words if '/' in w or w.endswith('.txt') if not (ROOT/w).exists()] == []


def lhotse(piece, **_):
    "lhotse has such a download with such options; nothing is fetched."
    import lhotse.bin.modes.recipes   # noqa: F401  (adds the command)
    from lhotse.bin.modes.cli_base import cli
    _, *words, target = shlex.split(piece.text)
    options = [w for w in words if w.startswith('--')]
    told = CliRunner().invoke(cli, [w for w in words if w not in options] + ['--help'])
    assert told.exit_code == 0 and 'TARGET_DIR' in told.output and not target.startswith('-')
    assert [o for o in options if o not in told.output] == []


def folder_is_made(piece, **_):
    "The folder that the next command writes into: papermill makes none."
    _, option, folder = shlex.split(piece.text)
    assert option == '-p' and any(p.page == piece.page and f' {folder}/' in p.text for p in SHOWN)


def parameters(piece, tmp_path, **_):
    """Every recipe of the page takes these parameters beside those of its command; grids have others. Dots stand for
    the command before."""
    words = shlex.split(piece.text.replace('papermill ...', ''))
    there = SHOWN[:SHOWN.index(piece)] if '...' in piece.text else SHOWN
    whole = [shlex.split(p.text) for p in there if p.page == piece.page and p.text.startswith('papermill nbs/')]
    found = {Path(of[1]).stem: of[3:] for of in whole}
    for name in set(found) - {'grid'}: accepted(name, found[name] + words, tmp_path)


def of_grids(piece, tmp_path, **_):
    "Grids take these parameters."
    accepted('grid', shlex.split(piece.text), tmp_path)


def recipe(piece, run, tmp_path, **_):
    """The recipe takes the parameters as they stand, and runs with stand-ins in place of large things: as far as
    `CHANGED` says."""
    words = shlex.split(piece.text)
    assert any(p.page == piece.page and p.text == f'mkdir -p {Path(words[2]).parent}' for p in SHOWN), 'no mkdir'
    given = accepted(Path(words[1]).stem, words[3:], tmp_path)
    report = run(words, given['out'])
    if 'axes' in given:
        assert [row['target_sparsity'] for row in report['measured']['rows']] == given['axes']['target_sparsity'][:1]
        return
    layout, noisy = given['data_layout'], bool(given['noise_folder'])
    if 'wer' in report: look(report, layout, given.get('modalities', ['a']), noisy)
    else: look_before_training(report, layout, noisy)
    assert all(report['config'][name] == given[name] for name in KEPT if name in given)


def taken(piece, tmp_path, **_):
    "The recipe takes the parameters as they stand, processes and batch system included; tests/test_recipes.py runs it."
    words = shlex.split(piece.text)
    accepted(Path(words[1]).stem, words[3:], tmp_path)


def page_of_recipe(piece, run, tmp_path, monkeypatch, **_):
    "The page of a recipe that was run."
    *_, module, made = shlex.split(piece.text)
    (tmp_path/made).parent.mkdir(parents=True)
    shutil.copy(run.notebook(next(shlex.split(p.text) for p in COMMANDS if HOW[handler(p)] is recipe)), tmp_path/made)
    monkeypatch.setattr(sys, 'argv', [module, made])
    monkeypatch.delitem(sys.modules, module, raising=False)   # as in a process of its own
    monkeypatch.chdir(tmp_path)
    runpy.run_module(module, run_name='__main__')
    assert (tmp_path/made).with_suffix('.html').stat().st_size > 10_000


def transcribes(piece, **_):
    "The command line takes the options as they stand; nbs/02_command.ipynb runs it."
    from avcomp.__main__ import make_parser
    assert make_parser().parse_args(shlex.split(piece.text)[3:]).paths


def said(reason):
    "Nothing is run, for a reason."
    return lambda piece, **_: reason


HOW = {   # page or its folder, how the command begins -> what is done with it; the longest beginning counts
    ('README.md', 'make '): makes,
    ('README.md', 'pip install .'): there,
    ('README.md', 'pip install --no-build-isolation'): there,
    ('README.md', 'mkdir '): folder_is_made,
    ('README.md', 'papermill nbs/recipes/dp_avhubert.ipynb runs/lrs3/'): recipe,
    ('README.md', 'papermill ... -p devices 2'): parameters,
    ('README.md', 'papermill nbs/recipes/grid.ipynb runs/'): recipe,
    ('README.md', "-y '{columns: "): of_grids,
    ('README.md', 'papermill nbs/recipes/dphubert.ipynb runs/ls960/'): recipe,
    ('README.md', 'papermill nbs/recipes/armhubert.ipynb runs/'): taken,
    ('README.md', 'python -m avcomp transcribe'): transcribes,
    ('CONTRIBUTING.md', 'make '): makes,
    ('CONTRIBUTING.md', '. .venv'): there,
    ('CONTRIBUTING.md', 'nbdev_'): there,
    ('CONTRIBUTING.md', 'pre-commit install'): there,
    ('CONTRIBUTING.md', 'pip install -c constraints.txt'): there,
    ('CONTRIBUTING.md', '.ci/run'): there,
    ('CONTRIBUTING.md', 'python tests/explorer_pictures.py'): said('photographs pages, in a browser'),
    ('data_cards/', '-p '): parameters,
    ('data_cards/embedded.md', 'corpus.json'): said('what a folder holds, no command'),
    ('data_cards/librispeech.md', 'lhotse download'): lhotse,
    ('data_cards/librispeech.md', 'mkdir '): folder_is_made,
    ('data_cards/librispeech.md', 'papermill nbs/recipes/dphubert.ipynb runs/ls960/'): recipe,
    ('data_cards/lrs3.md', 'mkdir '): folder_is_made,
    ('data_cards/lrs3.md', 'papermill nbs/recipes/dp_avhubert.ipynb runs/lrs3/'): recipe,
    ('data_cards/musan.md', 'lhotse download'): lhotse,
    ('nbs/', 'python -m avcomp transcribe'): transcribes,
    ('nbs/data/', 'pip install '): there,
    ('nbs/data/synthetic/01c_kokoro.ipynb', ''): said('fetches 140 MB'),
    ('nbs/data/12_workers.ipynb', 'python -c'): said('a way of starting Python, no command'),
    ('nbs/evaluate/08_page.ipynb', 'python -m avcomp.evaluate.page'): page_of_recipe,
    ('nbs/recipes/', '-p name value'): said('the pattern of all parameters'),
    ('nbs/recipes/', '-p '): parameters,
    ('nbs/recipes/', '-y '): parameters,
    ('nbs/recipes/', 'mkdir '): folder_is_made,
    ('nbs/recipes/grid.ipynb', '-y '): of_grids,
    ('nbs/recipes/dp_avhubert.ipynb', 'papermill nbs/recipes/dp_avhubert.ipynb runs/lrs3/'): recipe,
    ('nbs/recipes/dphubert.ipynb', 'papermill nbs/recipes/dphubert.ipynb runs/ls960/'): recipe,
    ('nbs/recipes/armhubert.ipynb', 'papermill nbs/recipes/armhubert.ipynb runs/'): taken,
    ('nbs/recipes/starhubert.ipynb', 'papermill nbs/recipes/starhubert.ipynb runs/'): taken,
    ('nbs/recipes/compare.ipynb', 'papermill nbs/recipes/compare.ipynb runs/'): taken,
    ('nbs/recipes/pretrain_teacher.ipynb', 'papermill nbs/recipes/pretrain_teacher.ipynb runs/'): taken,
    ('nbs/recipes/pretrain_audio_teacher.ipynb', 'papermill nbs/recipes/pretrain_audio_teacher.ipynb runs/'): taken,
    ('nbs/recipes/robustness.ipynb', 'papermill nbs/recipes/robustness.ipynb runs/'): taken,
    ('nbs/recipes/sparse_vsr.ipynb', 'papermill nbs/recipes/sparse_vsr.ipynb runs/'): taken,
    ('nbs/recipes/grid.ipynb', 'papermill nbs/recipes/grid.ipynb runs/'): recipe,
    ('nbs/train/12_grid.ipynb', 'mkdir '): folder_is_made,
    ('nbs/train/12_grid.ipynb', 'papermill nbs/recipes/grid.ipynb runs/'): recipe,
    ('nbs/train/13_parameters.ipynb', 'papermill -'): said('options that tests/test_checks.py passes'),
    ('nbs/train/13_parameters.ipynb', '-p subset 0100'): said('shows what papermill takes away'),
    ('nbs/tutorials/first_steps.ipynb', 'make '): makes,
}


def handler(piece):
    "The entry of the table for a command."
    rows = [row for row in HOW if piece.page.startswith(row[0]) and piece.text.startswith(row[1])]
    return max(rows, key=lambda row: (len(row[1]), len(row[0])), default=None)


# Python: the blocks of a page make one program.

@dataclass(frozen=True)
class Code:
    "How the Python of a page is run."
    made: Callable                              # names after the run -> whether that is there which should be
    links: dict = field(default_factory=dict)   # what it finds in its folder -> which stand-in that is
    small: dict = field(default_factory=dict)   # what it says -> what is run in its place


def has_words(names): return [w for w, *_ in names['words']] == names['cuts'][0].supervisions[0].text.split()


def has_shards(names):
    packed = open_corpus('shar', 'corpora/librispeech_shar').cuts
    return {s: len(cuts) for s, cuts in packed.items()} == {s: len(cuts) for s, cuts in names['corpus'].cuts.items()}


CODE = {
    'README.md': Code(lambda names: names['out'].hidden_states[-1].shape == (1, 49, 48), {'facebook': 'facebook'}),
    'data_cards/embedded.md': Code(has_words, small={
        '(1000, 100, 100), seed=0': '(2, 1, 1), seed=0, noise_files=(1, 1, 1), num_workers=0'}),
    'data_cards/librispeech.md': Code(has_shards, {
        'corpora/LibriSpeech': 'data/LibriSpeech', 'corpora/musan_noise': 'data/musan'}),
    'data_cards/lrs3.md': Code(lambda names: len(names['cuts']) == 1, {
        'lrs3/433h': 'data/lrs3/433h', 'lrs3/autoavsr': 'data/autoavsr'}),
    'data_cards/musan.md': Code(lambda names: sorted(names['noises']) == ['babble', 'music', 'noise', 'speech'],
        {'corpora/musan': 'musan'}, {'seed=0)': "seed=0, mixtures={'train': 2, 'valid': 1, 'test': 1}, voices=2)"}),
    'nbs/train/13_parameters.ipynb': Code(lambda names: names['seed'] == 3),
}


def program(page):
    "The Python of a page; '' where it has none."
    return '\n'.join(piece.text for piece in SHOWN if piece.page == page and piece.kind == 'python')


# Runs of recipes.

ABSOLUTE = re.compile(r'^/(data|models)/')          # where the pages' corpora and models lie
PRESETS = {'dp_avhubert_base': 'smoke', 'dphubert_base': 'smoke_audio'}
LESS = {'devices': '1', 'num_workers': '0'}         # of what is given
SMALLER = {'target_sparsity': '0.3', 'beam_size': '1', 'at_once': '1'}   # of recipes that train, where nothing is given
FEW = '{baselines: [], noises: [babble], snrs: [0]}'
UNPROBED = {'dphubert': ['-y', '{probe_clips: []}']}     # tests/test_recipes.py probes
AXES = re.compile(r'\[([\d.]+), [\d., ]+\]')         # of a grid: values, of which the first is taken
KEPT = 'subset', 'min_frames', 'max_frames', 'transcribed'   # parameters that no stand-in changes
REPORT = """import json
from pathlib import Path
from avcomp.train.parameters import typed_parameters
globals().update(typed_parameters(globals()))
Path(out).mkdir(parents=True, exist_ok=True)
Path(out, 'report.json').write_text(json.dumps(dict(compression=dict(params=target_sparsity), wer={})))"""
LOOKED_AT = """import json
from pathlib import Path
Path(out, 'report.json').write_text(json.dumps(dict(
    id=corpus.id, clips={s: len(cuts) for s, cuts in corpus.cuts.items()}, jobs=list(plan.jobs),
    conditions=list(conditions), config={name: globals()[name] for name in __annotations__}), default=str))"""


def accepted(name, words, folder):
    "What a recipe makes of the words of a command; several processes can share the batches of its preset."
    made = folder/f'{name}.ipynb'
    told = CliRunner().invoke(command, [str(ROOT/'nbs'/'recipes'/f'{name}.ipynb'), str(made), '--prepare-only', *words])
    assert told.exit_code == 0, told.output
    cells = {tag: c.source for c in nbformat.read(made, as_version=4).cells for tag in c.metadata.get('tags', [])}
    given, names = cells.get('injected-parameters', ''), {}
    exec(f"{cells['parameters']}\n{given}", names)
    found = typed_parameters(names | {'In': [given]})
    if 'launcher' in found:
        run = Run(found['devices'], found['nodes'], found['launcher'], slurm=found['slurm'])
        assert slurm_parameters(run, 'job')['nodes'] == run.nodes
        assert [n for n, stage in table.preset(found['preset']).items() if stage.fit.batches % run.processes] == []
    return found


def in_small(words, world):
    "The words of a command, with stand-ins in place of what they name."
    words = [ABSOLUTE.sub(rf'{world}/\1/', PRESETS.get(w, w)) for w in words]
    for i, (option, name) in enumerate(zip(words, words[1:])):
        if option == '-p' and name in LESS: words[i + 2] = LESS[name]
    if Path(words[1]).stem == 'grid': return [AXES.sub(r'[\1]', w) for w in words]
    more = [w for name, value in SMALLER.items() if name not in words for w in ('-p', name, value)]
    return [*words, *more, '-y', FEW, *UNPROBED.get(Path(words[1]).stem, [])]


def toy(nb):
    "A recipe that only takes its parameters, for grids."
    first = next(c for c in nb.cells if 'parameters' in c.metadata.get('tags', []))
    return [first, nbformat.v4.new_code_cell(REPORT)]


def until_training(nb):
    "All that a recipe does before its first training: it reads the corpus, makes its plan and checks it."
    training = next(i for i, c in enumerate(nb.cells) if c.source.startswith('reports = plan.reports('))
    return [*nb.cells[:training], nbformat.v4.new_code_cell(LOOKED_AT)]


CHANGED = {   # recipe of a command -> recipe that is run in part, and which
    'grid': ('dp_avhubert', toy),
    'dphubert': ('dphubert', until_training),   # tests/test_recipes.py trains
}


def lay_out(folder, world, changed='', short=None):
    "A folder in which commands of the repository's root can be given; of one recipe, only the cells that `short` says."
    for name in ('facebook', 'models/base_vox_iter5.pt'): (folder/Path(name).name).symlink_to(world/name)
    (folder/'nbs'/'recipes').mkdir(parents=True)
    for path in (ROOT/'nbs'/'recipes').glob('*.ipynb'): (folder/'nbs'/'recipes'/path.name).symlink_to(path)
    if short:
        made = folder/'nbs'/'recipes'/f'{changed}.ipynb'
        nb = nbformat.read(made, as_version=4)
        nb.cells = short(nb)
        made.unlink()
        nbformat.write(nb, made)


def papermill(words, folder):
    "Give a command of papermill in a folder."
    assert words[0] == 'papermill'
    with pytest.MonkeyPatch.context() as m:
        m.chdir(folder)
        Path(words[2]).parent.mkdir(parents=True, exist_ok=True)
        told = CliRunner().invoke(command, [*words[1:], '--no-progress-bar', '--log-level', 'ERROR'])
    if isinstance(told.exception, PapermillExecutionError): raise told.exception
    assert told.exit_code == 0, f'{told.output}{told.exception!r}'


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "The folder of all stand-ins; lists that are made of them are kept there."
    folder = once(tmp_path_factory, 'documented', make_stand_ins)
    with patch.dict(os.environ, AVCOMP_CACHE=str(folder/'cache'), OMP_NUM_THREADS='1'): yield folder


@dataclass
class Runs:
    "Runs of commands, each once for all processes of a test run."
    world: Path
    factory: pytest.TempPathFactory

    def folder(self, words):
        "Where a command was given."
        def make(folder):
            lay_out(folder, self.world, *CHANGED.get(Path(words[1]).stem, ()))
            papermill(in_small(words, self.world), folder)
        name = hashlib.sha256(shlex.join(words).encode()).hexdigest()[:12]
        return once(self.factory, f'documented-{name}', make)

    def notebook(self, words): return self.folder(words)/words[2]

    def __call__(self, words, out): return json.loads((self.folder(words)/out/'report.json').read_text())


@pytest.fixture(scope='module')
def run(world, tmp_path_factory):
    "Runs a command, or finds it run; returns the report."
    with patch('jupyter_client.provisioning.local_provisioner.launch_kernel', launch_kernel):
        yield Runs(world, tmp_path_factory)


def look(report, layout, modalities, noisy):
    "A report of a recipe that has trained and measured what was asked for."
    assert report['data']['id'].startswith(f'{layout}-') and set(report['wer']) == {'teacher', 'student'}
    for rates in report['wer'].values():
        assert set(rates) == set(modalities)
        for modality, found in rates.items():
            assert set(found) == ({'clean', 'babble@0'} if noisy and modality != 'v' else {'clean'})
    assert report['compression']['params'] > 0.1 and {'joint', 'distill', 'finetune'} <= set(report['jobs'])


def look_before_training(found, layout, noisy):
    "What a recipe has seen that stopped before its first training: all that it would train on and measure."
    assert found['id'].startswith(f'{layout}-') and min(found['clips'][s] for s in ('train', 'valid', 'test')) > 0
    assert {'joint', 'distill', 'finetune'} <= set(found['jobs'])
    assert found['conditions'] == (['clean', 'babble@0'] if noisy else ['clean'])


# The tests.

def test_everything_shown_is_accounted_for():
    "A command without an entry, a page of Python without one, and entries for nothing."
    rows = {piece: handler(piece) for piece in SHOWN if piece.kind != 'python'}
    assert [f'{p.page}: {p.text}' for p, row in rows.items() if row is None] == [], 'say in HOW how it is run'
    assert [row for row in HOW if row not in rows.values()] == [], 'no page shows this any more'
    assert {p.page for p in SHOWN if p.kind == 'python'} == set(CODE), 'say in CODE how its Python is run'


NEW = [   # what a page might show, and the commands in it
    ('```sh\nmake new\npapermill a.ipynb \\\n    b.ipynb   # why\n```', ['make new', 'papermill a.ipynb b.ipynb']),
    ('Try `python -m avcomp.new x`, or `pip install\nb`; not `python`, `make_corpus`, `python_speech`.',
     ['python -m avcomp.new x', 'pip install b']),
    ('with `-p devices 2` and `-y "{a: [1]}"`', ['-p devices 2', "-y '{a: [1]}'"]),
    ('```\nlhotse prepare new\n```', ['lhotse prepare new']),
]


@pytest.mark.parametrize('text, found', NEW)
def test_new_command_would_be_noticed(text, found):
    pieces = shown('README.md', text)
    assert [piece.text for piece in pieces] == found
    assert all(piece.kind == 'sh' for piece in pieces) and None in [handler(piece) for piece in pieces]


COMMANDS = [piece for piece in SHOWN if piece.kind != 'python' and handler(piece)]


@pytest.mark.parametrize('piece', COMMANDS, ids=lambda p: f'{p.page}: {p.text}'[:60])
def test_command(piece, request, tmp_path, monkeypatch):
    how = HOW[handler(piece)]
    wanted = {'run': request.getfixturevalue('run')} if how in (recipe, page_of_recipe) else {}
    how(piece, tmp_path=tmp_path, monkeypatch=monkeypatch, **wanted)


@pytest.mark.parametrize('page', CODE)
def test_python(page, world, tmp_path, monkeypatch):
    "The Python of a page, in order, in a folder with what it names."
    how, source = CODE[page], program(page)
    for name, of in how.links.items():
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).symlink_to(world/of)
    for old, new in how.small.items():
        assert old in source, old
        source = source.replace(old, new)
    monkeypatch.chdir(tmp_path)
    names = {'wav': torch.zeros(1, 16000), 'typed_parameters': typed_parameters, 'seed': '3'}
    names['__annotations__'] = {'seed': int}
    exec(compile(source, page, 'exec'), names)
    assert how.made(names)


def of_layout(name, layout, folder, *more):
    "The command for a layout that no page shows."
    parameters = dict(preset='dp_avhubert_base' if name == 'dp_avhubert' else 'dphubert_base', data_layout=layout,
                      data_folder=f'/data/{folder}', out=f'runs/{layout}', tokenizer='/data/spm1000.model')
    parameters['teacher'] = 'base_vox_iter5.pt' if name == 'dp_avhubert' else 'facebook/hubert-base-ls960'
    words = [w for key, value in parameters.items() for w in ('-p', key, value)]
    files = f'nbs/recipes/{name}.ipynb', f'runs/{layout}/{name}.ipynb'
    return ['papermill', *files, *words, '-p', 'transcribed', '1', *more]


NOISE = '-p', 'noise_folder', '/data/musan'
LAYOUTS = {   # those that no command of a page has
    'autoavsr': of_layout('dp_avhubert', 'autoavsr', 'autoavsr', '-y', '{modalities: [v]}'),
    'audio': of_layout('dphubert', 'audio', 'audio'),
    'tsv': of_layout('dphubert', 'tsv', 'tsv', *NOISE),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layout(layout, run, tmp_path):
    "Recipes read it, and find all that they would train on and measure."
    words = LAYOUTS[layout]
    lay_out(tmp_path, run.world, Path(words[1]).stem, until_training)
    papermill(in_small(words, run.world), tmp_path)
    found = json.loads((tmp_path/f'runs/{layout}'/'report.json').read_text())
    look_before_training(found, layout, 'noise_folder' in words)


def test_every_layout_is_run():
    "All that there are; the embedded corpus and shards are run by tests/test_recipes.py."
    texts = [p.text for p in SHOWN] + [shlex.join(words) for words in LAYOUTS.values()]
    given = {name for text in texts for name in re.findall(r'-p data_layout (\w+)', text)}
    assert given | {'embedded', 'shar'} == set(BUILT_IN)


UNNAMED = dict(teacher='/data/ctc_unnamed', tokenizer='', data_layout='librispeech', data_folder='/data/mini')
TWO_THINGS = ("2 things to mend(.|\n)*carries no tokenizer.*pass a tokenizer(.|\n)*"
              "has no test split, but train, valid; unpack a part of it.*LibriSpeech's test-clean")
FOREIGN = 'the head in .*ctc.* writes by its own tokenizer.*another one was given'
REFUSED = {   # what is wrong -> what a recipe is given in place of its layout's command, and what is told
    'foreign tokenizer': (dict(teacher='/data/ctc_of_tutorials'), FOREIGN),
    'no tokenizer, no test split': (UNNAMED, TWO_THINGS),
}


@pytest.mark.parametrize('case', REFUSED)
def test_recipe_is_refused(case, world, run, tmp_path):
    "Before the first training: no folder of one is there."
    changes, told = REFUSED[case]
    words = of_layout('dphubert', 'audio', 'audio', *(w for k, v in changes.items() for w in ('-p', k, v)))
    lay_out(tmp_path, world)
    with pytest.raises(PapermillExecutionError, match=told): papermill(in_small(words, world), tmp_path)
    assert [p.name for p in (tmp_path/'runs'/'audio').iterdir() if p.is_dir()] == []
