"""Magnitude pruning: time and memory of masks beside PyTorch's own, size of files, and what zeros do for speed.

    python -m benchmarks.magnitude

A model with zeros anywhere is no faster than a dense one. PyTorch's own masks of 250 million weights take 13 GB of
memory, and minutes."""
import argparse, json, statistics, subprocess, sys, tempfile, time
from copy import deepcopy
from pathlib import Path
import torch
from torch import nn
import torch.nn.functional as F
from torch.nn.utils import prune
from avcomp.compress.emptied import cut_emptied_
from avcomp.compress.magnitude import apply_masks_, layers_of, magnitude_masks, nonzero_masks, prunable_weights
from avcomp.compress.patterns import pattern_masks
from avcomp.evaluate.cost import cost_table, peak_memory, ratios, time_in_turn, use_threads
from avcomp.models.checkpoints import load_model, save_model
from avcomp.models.vsr import VSR, vsr_config


def lip_reader(size):
    torch.manual_seed(0)
    return VSR(vsr_config(size)).eval()


def masks_by_torch(model, sparsity):
    "What PyTorch offers; it takes no weights in another order of memory than that of their axes."
    for p in model.parameters(): p.data = p.data.contiguous()
    P = sum(w.numel() for w in prunable_weights(model).values())
    prune.global_unstructured([(m, 'weight') for m in layers_of(model)], prune.L1Unstructured, amount=round(sparsity*P))


MAKERS = {'avcomp': magnitude_masks, 'torch.nn.utils.prune': masks_by_torch}

def make_masks(maker, size, sparsity, threads):
    "In a process of its own: seconds, and peak memory over that of the weights."
    model = lip_reader(size)
    weights, seconds = sum(p.nbytes for p in model.parameters()), []
    def call():
        start, busy = time.perf_counter(), time.process_time()
        kept.append(MAKERS[maker](model, sparsity))
        seconds.extend([time.perf_counter() - start, time.process_time() - busy])
    kept = []
    with use_threads(threads): extra = peak_memory(call, torch.device('cpu'))*1e6
    print(json.dumps(dict(seconds=seconds, memory=1 + extra/weights, weights=weights)))


def compare_masks(size, sparsity, threads):
    for maker in MAKERS:
        command = [sys.executable, '-m', 'benchmarks.magnitude', '--maker', maker, '--size', size]
        out = subprocess.run([*command, '--threads', str(threads)], capture_output=True, text=True, check=True).stdout
        found = json.loads(out.splitlines()[-1])
        wall, busy = found['seconds']
        print(f"  {maker:21} {wall:6.2f} s, {busy:6.2f} s of processors   peak memory {found['memory']:.2f} times the "
              f"weights ({found['weights']/1e9:.2f} GB)", flush=True)


def compare_files(size, sparsities):
    "A packed file over a dense one, and whether every bit comes back."
    def stored(folder): return (folder/'model.safetensors').stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        model, whole = lip_reader(size), Path(folder)/'dense'
        dense = stored(save_model(model, whole))
        for s in sparsities:
            apply_masks_(model, magnitude_masks(model, s, earlier=nonzero_masks(model)))
            start = time.perf_counter()
            share = stored(save_model(model, Path(folder)/'packed', packed=True))/dense
            saved = time.perf_counter()
            back, read = load_model(Path(folder)/'packed'), time.perf_counter()
            same = all(torch.equal(a.view(torch.int32), b.view(torch.int32))
                       for a, b in zip(back.parameters(), model.parameters()))
            print(f'  {s:.0%} sparse: {share:.3f} of the dense file, written in {saved - start:.1f} s, read in '
                  f"{read - saved:.1f} s, {'every bit' if same else 'NOT EVERY BIT'} comes back", flush=True)


def unequal_(model):
    "Neurons that differ in strength, as those of trained models do: new weights leave no neuron empty."
    for m in model.modules():
        pair = dict(m.named_children())
        if not {'fc1', 'fc2'} <= set(pair): continue
        strength = torch.rand(pair['fc1'].out_features).square()
        with torch.no_grad():
            pair['fc1'].weight.mul_(strength[:, None])
            pair['fc2'].weight.mul_(strength)
    return model


def compare_encoders(size, sparsities, frames, repeats, threads):
    "Zeros in dense products, and what is left when emptied channels are cut."
    models = {'dense': unequal_(lip_reader(size))}
    for s in sparsities:
        models[f'{s:.0%} zeros'] = sparse = deepcopy(models['dense'])
        apply_masks_(sparse, magnitude_masks(sparse, s))
        models[f'{s:.0%} zeros, emptied cut'] = cut = deepcopy(sparse)
        cut_emptied_(cut)
    rows = cost_table(models, frames, repeats=repeats, threads=threads)
    for r in rows:
        print(f"  {r['name']:24} {r['params']/1e6:7.2f} M params   MACs {r['macs']/rows[0]['macs']:.2f}   "
              f"{r['latency_ms']:8.1f} ms   time {r['ratio']:.2f}", flush=True)


def products(width, inner, sparsity, device, dtype):
    "One matrix of a feed-forward in several forms: name -> what multiplies by it."
    layer = nn.Sequential(nn.Linear(width, inner, bias=False)).to(device, dtype)
    def masked(masks): return apply_masks_(deepcopy(layer), masks)[0].weight.detach()
    dense, anywhere = layer[0].weight.detach(), masked(magnitude_masks(layer, sparsity))
    calls = {'dense': lambda x: F.linear(x, dense)}
    calls[f'{sparsity:.0%} zeros, dense product'] = lambda x: F.linear(x, anywhere)
    if device == 'cuda':
        fours = torch.sparse.to_sparse_semi_structured(masked(pattern_masks(layer)))
        return calls | {'2:4, sparse tensor cores': lambda x: F.linear(x, fours)}
    rows, blocks = anywhere.to_sparse_csr(), masked(pattern_masks(layer, sparsity, '16x16')).to_sparse_bsr((16, 16))
    calls[f'{sparsity:.0%} zeros, CSR'] = lambda x: (rows @ x.T).T
    return calls | {f'{sparsity:.0%} in 16x16, BSR': lambda x: (blocks @ x.T).T}


SHAPES = {'cpu': ((768, 3072),), 'cuda': ((768, 3072), (4096, 16384))}   # inputs and outputs of a matrix; a large one

def compare_products(sparsity, frames, repeats, threads):
    for device in ['cpu'] + ['cuda']*torch.cuda.is_available():
        n, dtype = (frames, torch.float32) if device == 'cpu' else (40*frames, torch.float16)
        for width, inner in SHAPES[device]:
            x = torch.randn(n, width, device=device, dtype=dtype)
            calls = products(width, inner, sparsity, device, dtype)
            def timed(call, x=x, device=device):
                for _ in range(20): call(x)
                if device == 'cuda': torch.cuda.synchronize()
            rounds = {name: lambda call=call, timed=timed: timed(call) for name, call in calls.items()}
            with torch.no_grad(), use_threads(threads): times = time_in_turn(rounds, repeats, warmup=2)
            print(f'  {width} to {inner}, {n} frames, {dtype} on {device}; times over the dense product')
            for name, (low, mid, high) in ratios(times).items():
                ms = statistics.median(times[name])/20
                print(f'    {name:28} {ms:8.3f} ms   ratio {mid:.2f} ({low:.2f} to {high:.2f})', flush=True)


def main(size='base_l', encoder='base_s', sparsity=(0.5, 0.9), frames=100, repeats=5, threads=2, maker=None, parts=()):
    if maker: return make_masks(maker, size, sparsity[0], threads)
    titles = {
        'masks': f'masks of {size} at {sparsity[0]:.0%}, {threads} threads',
        'files': f'files of {size}',
        'encoders': f'{encoder}, {frames} frames, {threads} threads; times over the dense model',
        'products': 'one matrix of a feed-forward',
    }
    calls = {
        'masks': lambda: compare_masks(size, sparsity[0], threads),
        'files': lambda: compare_files(size, sparsity),
        'encoders': lambda: compare_encoders(encoder, sparsity, frames, repeats, threads),
        'products': lambda: compare_products(sparsity[-1], frames, repeats, threads),
    }
    for part in parts or calls:
        print(titles[part], flush=True)
        calls[part]()


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--size', default='base_l')
    p.add_argument('--encoder', default='base_s')
    p.add_argument('--sparsity', type=float, nargs='+', default=(0.5, 0.9))
    p.add_argument('--frames', type=int, default=100)
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--maker', choices=MAKERS, help='make masks once, in this process')
    p.add_argument('--parts', nargs='+', default=(), choices=('masks', 'files', 'encoders', 'products'))
    main(**vars(p.parse_args()))
