"""Encoder of the lip reader, front-end included, against plain PyTorch code with the same weights, in turn:

    python -m benchmarks.vsr"""
import argparse
from copy import deepcopy
import torch
from torch import nn
import torch.nn.functional as F
from avcomp.compress.dims import count_macs
from avcomp.evaluate.cost import use_threads
from avcomp.models.building_blocks import sinusoids
from avcomp.models.vsr import VSR, vsr_config
from .encoder import PlainFrontend, compare_parts, random_statistics_


class PlainConv(nn.Module):
    "Pointwise, GLU, depthwise, batch norm, SiLU, pointwise: convolutions and a norm as layers, channels first."
    def __init__(self, m):
        super().__init__()
        C, D = m.in_proj.weight.shape
        self.first, self.last = nn.Conv1d(D, 2*C, 1), nn.Conv1d(C, D, 1)
        self.depthwise, self.norm = m.depthwise, m.norm
        with torch.no_grad():
            self.first.weight.copy_(torch.cat([m.in_proj.weight, m.in_gate.weight])[..., None])
            self.first.bias.copy_(torch.cat([m.in_proj.bias, m.in_gate.bias]))
            self.last.weight.copy_(m.out_proj.weight[..., None])
            self.last.bias.copy_(m.out_proj.bias)

    def forward(self, x):
        y = F.glu(self.first(x.transpose(1, 2)), dim=1)
        return self.last(F.silu(self.norm(self.depthwise(y)))).transpose(1, 2)


class PlainAttention(nn.Module):
    "Two matrix products and a shift by padding before the softmax, one after it (Dai et al. 2019, appendix B)."
    def __init__(self, m):
        super().__init__()
        self.m = m

    def forward(self, x, offsets):
        m, (B, T, _) = self.m, x.shape
        def heads(y): return y.view(len(y), -1, m.num_heads, m.head_dim).transpose(1, 2)
        q, k, v, p = heads(m.q_proj(x)), heads(m.k_proj(x)), heads(m.v_proj(x)), heads(m.pos_proj(offsets[None]))
        content = torch.matmul(q + m.content_bias[:, None], k.transpose(2, 3))
        distance = torch.matmul(q + m.offset_bias[:, None], p.transpose(2, 3))
        shifted = F.pad(distance, (1, 0)).view(B, m.num_heads, 2*T, T)[:, :, 1:].view_as(distance)[..., :T]
        weights = torch.softmax((content + shifted)/m.head_dim**0.5, -1)
        return m.out_proj(torch.matmul(weights, v).transpose(1, 2).reshape(B, T, -1))


class PlainConformer(nn.Module):
    "The layers one after the other."
    def __init__(self, encoder):
        super().__init__()
        self.e = encoder
        self.attention = nn.ModuleList(PlainAttention(layer.attn.part) for layer in encoder.layers)
        self.convolution = nn.ModuleList(PlainConv(layer.conv.part) for layer in encoder.layers)

    def forward(self, x):
        T, D = x.shape[1:]
        offsets, x = sinusoids(1-T, 2*T-1, D, interleaved=True).flip(0), x*D**0.5
        def feed(branch, y): return branch.part.fc2(F.relu(branch.part.fc1(branch.norm(y))))
        for layer, attention, convolution in zip(self.e.layers, self.attention, self.convolution):
            x = x + 0.5*feed(layer.macaron, x)
            x = x + attention(layer.attn.norm(x), offsets)
            x = x + convolution(layer.conv.norm(x))
            x = x + 0.5*feed(layer.ffn, x)
            x = layer.norm(x)
        return self.e.norm(x)


class Plain(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.video, self.encoder = PlainFrontend(model.video), PlainConformer(model.encoder)

    def forward(self, video): return self.encoder(self.video(video))


def parts(model, encode, video, hidden):
    "The calls to time: the whole, the video front-end, the Conformer."
    return {'whole': lambda: encode(video),
            'front-end': lambda: model.video(video),
            'Conformer': lambda: model.encoder(hidden)}


def main(size='base_l', frames=100, clips=(1,), repeats=5, threads=2, bf16=False):
    torch.manual_seed(0)
    model = VSR(vsr_config(size, decoder_layers=0, vocab_size=0)).eval()
    random_statistics_(model)
    plain = Plain(deepcopy(model)).eval()
    with torch.inference_mode(), use_threads(threads):
        for B in clips:
            video, hidden = torch.randn(B, frames, 88, 88), torch.randn(B, frames, model.config.embed_dim)
            torch.testing.assert_close(model.encode(video).last, plain(video), rtol=1e-3, atol=1e-4)
            print(f'{size}, {B} x {frames} frames, {threads} threads: equal outputs; '
                  'times over those of plain PyTorch, fp32')
            ours = parts(model, lambda v: model.encode(v).last, video, hidden)
            theirs = parts(plain, plain, video, hidden)
            compare_parts(ours, theirs, repeats, bf16, {'whole': B*count_macs(model, frames)})


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--size', default='base_l')
    p.add_argument('--frames', type=int, default=100)
    p.add_argument('--clips', type=int, nargs='+', default=(1,))
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--bf16', action='store_true')
    main(**vars(p.parse_args()))
