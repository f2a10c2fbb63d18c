"The code of recipes is folded away in JupyterLab, their parameters are not: `python tests/fold_recipes.py` sees to it."
from pathlib import Path
import nbformat

recipes = sorted((Path(__file__).parent.parent/'nbs'/'recipes').glob('*.ipynb'))

def fold(
    path:Path,   # a recipe
)->bool:         # whether it had to be changed
    "Fold the code cells of a notebook."
    nb = nbformat.read(path, as_version=4)
    todo = [c for c in nb.cells if c.cell_type == 'code' and 'parameters' not in c.metadata.get('tags', [])
            and not c.metadata.get('jupyter', {}).get('source_hidden')]
    for c in todo: c.metadata['jupyter'] = {'source_hidden': True}
    if todo: nbformat.write(nb, path)
    return bool(todo)

if __name__ == '__main__':
    for path in recipes: fold(path)
