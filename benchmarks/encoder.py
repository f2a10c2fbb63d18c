"""Encoder of AV-HuBERT Base against plain PyTorch code with the same weights, in turn:

    python -m benchmarks.encoder"""
import argparse, statistics
from copy import deepcopy
import torch
from torch import nn
import torch.nn.functional as F
from avcomp.compress.dims import count_macs
from avcomp.evaluate.cost import ratios, time_in_turn, use_threads
from avcomp.models.avhubert import AVHubert, avhubert_config


class PlainFrontend(nn.Module):
    "Conv3d stem, batch norms as layers, PReLU, a ResNet over all frames at once."
    def __init__(self, video):
        super().__init__()
        stem = nn.BatchNorm3d(video.stem.out_channels)
        stem.load_state_dict(video.stem_bn.state_dict())
        self.stem = nn.Sequential(video.stem, stem, video.stem_act, nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
        self.blocks = nn.ModuleList(b for s in range(1, 5) for b in getattr(video, f'stage{s}'))
        self.proj = video.proj

    def forward(self, frames):
        x = self.stem(frames[:, None])
        x = x.transpose(1, 2).flatten(0, 1)
        for b in self.blocks:
            y = b.bn2(b.conv2(b.act1(b.bn1(b.conv1(x)))))
            if b.down_conv is not None: x = b.down_bn(F.conv2d(x, b.down_conv.weight, stride=b.stride))
            x = b.act2(y + x)
        return self.proj(F.adaptive_avg_pool2d(x, 1).flatten(1)).unflatten(0, frames.shape[:2])


class PlainTransformer(nn.Module):
    "Weight norm in every call, attention as two matrix products around a softmax, time-first layout."
    def __init__(self, encoder):
        super().__init__()
        self.e, self.pos = encoder, encoder.pos_conv

    def forward(self, x):
        k = self.pos.weight_v.shape[-1]
        weight = self.pos.weight_g * self.pos.weight_v / self.pos.weight_v.norm(dim=(0, 1), keepdim=True)
        y = F.conv1d(x.transpose(1, 2), weight, self.pos.bias, padding=k//2, groups=self.pos.groups)[..., :x.shape[1]]
        x = (x + F.gelu(y).transpose(1, 2)).transpose(0, 1)   # (T, B, D)
        for layer in self.e.layers:
            x = x + self.attention(layer.self_attn, layer.attn_norm(x))
            x = x + layer.fc2(F.gelu(layer.fc1(layer.ffn_norm(x)).float()).to(x.dtype))
        return self.e.norm(x).transpose(0, 1)

    def attention(self, m, x):
        T, B, _ = x.shape
        def heads(y): return y.contiguous().view(T, B*m.num_heads, m.head_dim).transpose(0, 1)
        q, k, v = heads(m.q_proj(x)*m.head_dim**-0.5), heads(m.k_proj(x)), heads(m.v_proj(x))
        y = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)).float(), -1).type_as(q), v)
        return m.out_proj(y.transpose(0, 1).contiguous().view(T, B, -1))


class Plain(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.m = model
        self.video, self.encoder = PlainFrontend(model.video), PlainTransformer(model.encoder)

    def forward(self, audio, video):
        both = torch.cat([self.m.audio(audio), self.video(video)], -1)
        return self.encoder(self.m.fusion_proj(self.m.fusion_norm(both)))


def parts(model, x, width):
    "The calls to time: the whole, the video front-end, the transformer."
    hidden = torch.randn(*x['audio'].shape[:2], width)
    return {'whole': lambda: model(**x),
            'front-end': lambda: model.video(x['video']),
            'transformer': lambda: model.encoder(hidden)}


def in_bf16(call):
    def run():
        with torch.autocast('cpu', torch.bfloat16): return call()
    return run


def random_statistics_(model):
    "Statistics as after training, so that folding has something to fold."
    for m in model.modules():
        if not isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)): continue
        m.running_mean.normal_(0, .1)
        m.running_var.uniform_(.5, 1.5)


def bare_product(macs):
    "A call that does as many multiplications in one large matrix product: the least that a model can take."
    a, b = torch.randn(max(1, macs >> 22), 2048), torch.randn(2048, 2048)
    return lambda: a @ b


def compare_parts(ours, theirs, repeats, bf16, macs={}):
    "Time each part of two models in turn, and print ratios; `ours` and `theirs` are part -> call, `macs` part -> MACs."
    for part in ours:
        calls = {'plain fp32': theirs[part], 'avcomp fp32': ours[part]}
        if part in macs: calls['matrix product'] = bare_product(macs[part])
        if bf16: calls |= {'plain bf16': in_bf16(theirs[part]), 'avcomp bf16': in_bf16(ours[part])}
        times = time_in_turn(calls, repeats, warmup=1)
        for name, (low, mid, high) in ratios(times).items():
            print(f'  {part:11}  {name:14}  {statistics.median(times[name]):8.1f} ms   '
                  f'ratio {mid:5.2f} ({low:.2f} to {high:.2f})   {1/mid:5.2f} times as fast')


def main(size='base', frames=100, clips=(1, 4), repeats=5, threads=2, bf16=True):
    torch.manual_seed(0)
    model = AVHubert(avhubert_config(size, head='none')).eval()
    random_statistics_(model)
    plain = Plain(deepcopy(model)).eval()
    with torch.inference_mode(), use_threads(threads):
        for B in clips:
            x = dict(audio=torch.randn(B, frames, 104), video=torch.randn(B, frames, 88, 88))
            torch.testing.assert_close(model(**x).last, plain(**x), rtol=1e-4, atol=1e-4)
            print(f'{size}, {B} x {frames} frames, {threads} threads: equal outputs; '
                  'times over those of plain PyTorch, fp32')
            ours, theirs = (parts(m, x, model.config.embed_dim) for m in (model, plain))
            compare_parts(ours, theirs, repeats, bf16, {'whole': B*count_macs(model, frames)})


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--size', default='base')
    p.add_argument('--frames', type=int, default=100)
    p.add_argument('--clips', type=int, nargs='+', default=(1, 4))
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--no-bf16', dest='bf16', action='store_false')
    main(**vars(p.parse_args()))
