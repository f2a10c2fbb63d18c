"What processes of tests, of training and kernels of recipes import: see warm.py."
import os
os.environ.setdefault('MPLBACKEND', 'module://matplotlib_inline.backend_inline')   # as a kernel would, before pyplot
import avcomp.train.launch, avcomp.train.plan, avcomp.train.presets.table, ipykernel.kernelapp   # noqa: F401
import avcomp.evaluate.page, avcomp.evaluate.probing, avcomp.viz.model_widgets   # noqa: F401
import papermill, torch.utils.tensorboard   # noqa: F401
