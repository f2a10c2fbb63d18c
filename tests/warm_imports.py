"What processes of training and kernels of recipes import: see warm.py."
import os
os.environ.setdefault('MPLBACKEND', 'module://matplotlib_inline.backend_inline')   # as a kernel would, before pyplot
import avcomp.evaluate.page
import avcomp.evaluate.probing
import avcomp.train.launch
import avcomp.train.plan
import avcomp.train.presets.table
import avcomp.viz.model_widgets   # noqa: F401
import ipykernel.kernelapp        # noqa: F401
