"Every family in the smallest size, and clips that all of them take."
import torch
from avcomp.models.armhubert import armhubert_config
from avcomp.models.avhubert import AVHubert, avhubert_config
from avcomp.models.avhubert_s2s import AVHubertS2S, avhubert_s2s_config
from avcomp.models.hubert import hubert_config
from avcomp.models.vsr import VSR, vsr_config

WIDTHS = dict(embed_dim=48, ffn_dim=64, num_layers=2)
AV = WIDTHS | dict(video_widths=(4, 4, 6, 8), pos_kernel=8, pos_groups=4, head='none')
SOUND = WIDTHS | dict(conv_dims=(8,)*7, pos_kernel=8, pos_groups=4, vocab_size=9)
LARGE = dict(conv_norm='layer', conv_bias=True, norm_first=True)
LIPS = WIDTHS | dict(video_widths=(4, 4, 6, 8), conv_kernel=5, decoder_layers=1)

def waveform(size, **kwargs):
    config = hubert_config(size, **SOUND | kwargs)
    return config.model_cls(config)

def thin(size, **kwargs):
    config = armhubert_config(size, **SOUND | dict(conv_dims=(8,)*9, project=True) | kwargs)
    return config.model_cls(config)

MODELS = {
    'avhubert': lambda: AVHubert(avhubert_config('tiny', **AV)),
    'avhubert_s2s': lambda: AVHubertS2S(avhubert_s2s_config('tiny', avhubert_config('tiny', **AV), ctc=True)),
    'hubert': lambda: waveform('hubert_tiny'),
    'wav2vec2': lambda: waveform('wav2vec2_tiny', **LARGE, norm_over='kept'),   # as DPHuBERT writes large ones
    'wavlm': lambda: waveform('wavlm_tiny'),
    'vsr': lambda: VSR(vsr_config('tiny', **LIPS)),
    'armhubert': lambda: thin('armhubert_tiny', own_maps=(True, False)),
    'starhubert': lambda: thin('starhubert_tiny'),
}
TWIN = {'vsr that hears': lambda: VSR(vsr_config('tiny', stream='wav', wav_widths=(4, 4, 6, 8), **LIPS))}
FORMS = MODELS | TWIN
T, N = 5, 400 + 320*4   # frames and samples of the longer clip
SEED = torch.Generator().manual_seed(1)
SHAPES = {'audio': (T, 104), 'video': (T, 88, 88), 'wav': (N,)}
CLIPS = {name: torch.randn(2, *shape, generator=SEED) for name, shape in SHAPES.items()}
CLIPS |= {'padding_mask': torch.arange(T) >= torch.tensor([[T], [T - 2]]), 'lengths': torch.tensor([N, N - 640])}

def build(form):
    torch.manual_seed(0)
    return FORMS[form]().eval()

def clips_of(model, clips=CLIPS): return {k: v for k, v in clips.items() if k in model.inputs}
