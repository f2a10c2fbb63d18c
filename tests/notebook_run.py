"A notebook in this process. Nothing is imported at the top that a fork would have to import again: see warm.py."
import sys
from pathlib import Path

def draw_once():
    "Figures as notebooks show them, without pyplot's drawing before it and the one that trims the margins."
    import matplotlib.pyplot as plt
    from matplotlib_inline.config import InlineBackend
    plt.install_repl_displayhook = lambda: None
    InlineBackend.instance().print_figure_kwargs = {}

def run_notebook(path):
    "What `nbdev_test --path` does; ends the process with 1 where a cell fails."
    from nbdev.config import get_config
    from nbdev.test import test_nb
    draw_once()
    passed, _ = test_nb(path, skip_flags=get_config().tst_flags.split(), basepath=Path(__file__).parent.parent)
    sys.exit(not passed)
