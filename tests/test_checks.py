"Recipes that cannot fail late: parameters as they arrive, and every finding before the first stage."
import json

import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError
from papermill.cli import papermill as command
from click.testing import CliRunner

PARAMETERS = """subset:str = ''
snrs:list = [0, 5]
clips:list = [1600, 100, 120]
seed:int = 0
target_sparsity:float = 0.7
cache:bool = True
slurm:dict = {}"""
READ = """import json
from avcomp.train.parameters import typed_parameters
globals().update(typed_parameters(globals()))
json.dump({n: globals()[n] for n in __annotations__}, open('found.json', 'w'))"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    "A notebook that reads its parameters and writes them down; returns a call of papermill's command line."
    monkeypatch.chdir(tmp_path)
    first = new_code_cell(PARAMETERS, metadata={'tags': ['parameters']})
    papermill.iorw.write_ipynb(new_notebook(cells=[first, new_code_cell(READ)], metadata={
        'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}}), 'recipe.ipynb')

    def call(*args):
        res = CliRunner().invoke(command, ['recipe.ipynb', 'out.ipynb', '--no-progress-bar', *args])
        if isinstance(res.exception, PapermillExecutionError): raise res.exception
        assert res.exit_code == 0, res.output
        return json.loads((tmp_path/'found.json').read_text())
    return call


def test_parameters_by_papermill(recipe):
    found = recipe('-p', 'subset', '960', '-r', 'seed', '3', '-p', 'target_sparsity', '1', '-r', 'cache', 'False',
                   '-p', 'clips', '[16, 4, 6]', '-y', '{snrs: [-5], slurm: {partition: gpu}}')
    assert found == dict(subset='960', seed=3, target_sparsity=1., cache=False, clips=[16, 4, 6], snrs=[-5],
                         slurm={'partition': 'gpu'})
    assert [type(found[n]) for n in ('seed', 'target_sparsity')] == [int, float]


@pytest.mark.parametrize('args, told', [
    (('-p', 'target_sparsty', '0.5'), "no parameter 'target_sparsty' (did you mean 'target_sparsity'?)"),
    (('-p', 'seed', '0.7'), "'seed' is of type int, got 0.7, of type float; pass it as in -p seed 3")])
def test_bad_parameters_by_papermill(recipe, args, told):
    with pytest.raises(PapermillExecutionError) as e: recipe(*args)
    assert told in str(e.value)
