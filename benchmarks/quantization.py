"""Int8 for CPUs, library by library, against PyTorch in float32; then whole encoders; then k-means of a whole model:

    python -m benchmarks.quantization

Every library is timed in a process of its own, in turn with float32; ratios are of times, below 1 is faster.
On a busy machine look at the shortest times.
What is not installed (torchao, onnx, onnxscript, onnxruntime) is left out."""
import argparse, subprocess, sys, tempfile, time, warnings
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
import torch
from torch import nn
from avcomp.compress.int8 import quantize_dynamic_
from avcomp.compress.codebooks import quantizable, quantize_
from avcomp.evaluate.cost import compare_latency, peak_memory, ratios, time_in_turn, use_threads
from avcomp.models.avhubert import AVHubert, avhubert_config
from avcomp.models.hubert import hubert_config
from avcomp.models.int8 import int8_rows
from avcomp.models.vsr import VSR, vsr_config

WIDTH, INNER = 768, 3072
LONG = 10   # seconds after which a slow library has been seen enough


def feed_forward():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH)).eval()

def ours(net):
    quantize_dynamic_(net)
    return net

def quantize_dynamic(engine):
    def make(net):
        torch.backends.quantized.engine = engine
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    return make

class IntMM(nn.Module):
    "torch._int_mm with a scale for each frame."
    def __init__(self, linear):
        super().__init__()
        weight, self.scale = int8_rows(linear.weight)
        self.weight, self.bias = weight.T.contiguous(), linear.bias.detach()

    def forward(self, x):
        scale = x.abs().amax(-1, keepdim=True)/127
        y = torch._int_mm((x/scale).round().to(torch.int8).flatten(0, 1), self.weight).view(*x.shape[:2], -1)
        return y*self.scale*scale + self.bias

class Packed(nn.Module):
    "Int8 weights, activations in bfloat16."
    def __init__(self, linear):
        super().__init__()
        self.weight, scale = int8_rows(linear.weight)
        self.scale, self.bias = scale.bfloat16(), linear.bias.detach()

    def forward(self, x):
        y = torch.ops.aten._weight_int8pack_mm(x.flatten(0, 1).bfloat16(), self.weight, self.scale)
        return y.float().view(*x.shape[:2], -1) + self.bias

def layers(kind): return lambda net: nn.Sequential(kind(net[0]), net[1], kind(net[2]))

def torchao(config):
    def make(net):
        import torchao.quantization as q
        q.quantize_(net, getattr(q, config)())
        return net
    return make

def pt2e(net):
    import torch._inductor.config as inductor
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    inductor.freezing = True
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=True, reduce_range=True))
    x = torch.randn(1, 100, WIDTH)
    shapes = ({1: torch.export.Dim('frames', min=2, max=4000)},)
    prepared = prepare_pt2e(torch.export.export(net, (x,), dynamic_shapes=shapes).module(), quantizer)
    prepared(x)
    return convert_pt2e(prepared)

def compiled(make): return lambda net: torch.compile(make(net), dynamic=False)

def runtime(int8, **kwargs):
    def make(net):
        import onnxruntime
        from onnxruntime.quantization import quantize_dynamic
        folder = Path(tempfile.mkdtemp())
        torch.onnx.export(net, (torch.randn(1, 100, WIDTH),), folder/'net.onnx', input_names=['x'], dynamo=False,
                          dynamic_axes={'x': {1: 'frames'}})
        if int8: quantize_dynamic(folder/'net.onnx', folder/'int8.onnx', per_channel=True, **kwargs)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        session = onnxruntime.InferenceSession(folder/('int8.onnx' if int8 else 'net.onnx'), options)
        return lambda x: torch.from_numpy(session.run(None, {'x': x.numpy()})[0])
    return make

CANDIDATES = {   # name -> what it needs, how it is made
    'float32 (PyTorch)': ('torch', lambda net: net),
    'float32, compiled': ('torch', compiled(lambda net: net)),
    'float32 (ONNX Runtime)': ('onnxruntime', runtime(False)),
    'avcomp (oneDNN)': ('torch', ours),
    'quantize_dynamic, x86': ('torch', quantize_dynamic('x86')),
    'quantize_dynamic, onednn': ('torch', quantize_dynamic('onednn')),
    'ONNX Runtime': ('onnxruntime', runtime(True)),
    'ONNX Runtime, 7 bits': ('onnxruntime', runtime(True, reduce_range=True)),
    'torch._int_mm': ('torch', layers(IntMM)),
    'torch._int_mm, compiled': ('torch', compiled(layers(IntMM))),
    'int8 weights, bf16': ('torch', layers(Packed)),
    'torchao W8': ('torchao', torchao('Int8WeightOnlyConfig')),
    'torchao W8, compiled': ('torchao', compiled(torchao('Int8WeightOnlyConfig'))),
    'torchao W8A8': ('torchao', torchao('Int8DynamicActivationInt8WeightConfig')),
    'torchao W8A8, compiled': ('torchao', compiled(torchao('Int8DynamicActivationInt8WeightConfig'))),
    'torchao PT2E, compiled': ('torchao', compiled(pt2e)),
}


def one(name, frames, repeats, threads):
    "Time a candidate and float32 in turn."
    net, row = feed_forward(), f'  {name:26}'
    torch.set_num_threads(threads)
    with torch.no_grad():
        call = CANDIDATES[name][1](deepcopy(net))
        for T in frames:
            x = torch.randn(1, T, WIDTH)
            error, start = ((call(x) - net(x)).norm()/net(x).norm()).item(), time.perf_counter()
            call(x)
            rounds = int(min(repeats, max(3, LONG/(time.perf_counter() - start))))
            times = time_in_turn({'float32': lambda x=x: net(x), name: lambda x=x: call(x)}, rounds, warmup=1)
            best = min(times[name])/min(times['float32'])
            row += f'  {T:4} frames: {best:5.2f}, median {ratios(times)[name][1]:5.2f}, error {error:.4f}'
    print(row)

def libraries(frames, repeats, threads):
    print(f'feed-forward {WIDTH} x {INNER}, {threads} threads: shortest time over the shortest of float32, '
          'median of the ratios of rounds, relative error of outputs')
    for name, (needs, _) in CANDIDATES.items():
        if not find_spec(needs): print(f'  {name:26}  {needs} is not installed')
        else:
            command = [sys.executable, '-W', 'ignore', '-m', 'benchmarks.quantization', '--one', name]
            command += ['--repeats', str(repeats), '--threads', str(threads), '--frames', *map(str, frames)]
            done = subprocess.run(command, capture_output=True, text=True)
            failed = f'  {name:26}  failed: {done.stderr.splitlines()[-1]}' if done.returncode else ''
            print(failed or done.stdout.rstrip(), flush=True)


def encoders():
    "Models to compare: name -> model, streams to give."
    av = AVHubert(avhubert_config('base', head='none'))
    sound = hubert_config('hubert_base')
    return {'AV-HuBERT Base, sound': (av, ('audio',)), 'AV-HuBERT Base, sound and video': (av, ('audio', 'video')),
            'HuBERT Base': (sound.model_cls(sound), ('wav',)), 'VSR BASE-L': (VSR(vsr_config('base_l')), ('video',))}

def whole(repeats, threads):
    print(f'encoders, 4 s of one clip, {threads} threads: time over that of float32')
    for name, (model, streams) in encoders().items():
        models = {'float32': model.eval(), 'int8': deepcopy(model)}
        report = quantize_dynamic_(models['int8'])
        timed = compare_latency(models, 4*model.frame_rate, streams, repeats=repeats, threads=threads)
        low, mid, high = timed['int8'].ratio
        print(f"  {name:32} {timed['float32'].latency_ms:7.0f} ms; int8 {mid:.2f} ({low:.2f} to {high:.2f}); {report}",
              flush=True)


def codebooks(threads):
    "k-means of all weights of the largest model."
    model = VSR(vsr_config('base_l'))
    n = sum(p.numel() for p in quantizable(model).values())
    with use_threads(threads):
        start = time.perf_counter()
        peak = peak_memory(lambda: quantize_(model), torch.device('cpu'))
        print(f'codebooks of VSR BASE-L, {n:,} weights, {threads} threads: {time.perf_counter() - start:.0f} s, '
              f'{peak:.0f} MB beside {4*n/1e6:.0f} MB of weights')


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--one', choices=CANDIDATES, help='only this library, in this process')
    p.add_argument('--frames', type=int, nargs='+', default=(100, 400))
    p.add_argument('--repeats', type=int, default=20)
    p.add_argument('--threads', type=int, default=2)
    args = p.parse_args()
    warnings.simplefilter('ignore')
    if args.one: one(args.one, args.frames, args.repeats, args.threads)
    else:
        libraries(args.frames, args.repeats, args.threads)
        whole(max(args.repeats//4, 3), args.threads)
        codebooks(args.threads)
