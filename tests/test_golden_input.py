"The input pipeline against numbers recorded from the reference (tests/golden/avhubert/input_pipeline)."
import json
from pathlib import Path
import numpy as np, pytest, soundfile as sf, torch
from safetensors.torch import load_file
from avcomp.data.audio_noise import average_noises, mix
from avcomp.data.features import crop_flip, fbank, logfbank, normalise_video, stack_frames

CASE = Path(__file__).parent/'golden/avhubert/input_pipeline'
META = json.loads((CASE/'meta.json').read_text())
TOL = {k: v for k, v in META['tolerance'].items() if not isinstance(v, str)}
CLIPS = 'aligned', 'short', 'long'

@pytest.fixture(scope='module')
def io(): return load_file(CASE/'io.safetensors')

@pytest.fixture(scope='module')
def frames(): return torch.from_numpy(np.load(CASE/'video.npz')['frames'])

def wav(name): return torch.from_numpy(sf.read(CASE/f'{name}.wav', dtype='float32')[0])
def close(got, want, tol): torch.testing.assert_close(got, want, rtol=0, atol=TOL[tol])

def same_counts(got, want):
    "Exact int16 counts, or one count off in under 0.1 % of the samples."
    off = (got*32768 - want).abs()
    assert got.shape == want.shape and off.max() <= 1 and (off > 0).float().mean() < 1e-3, (off.max(), (off > 0).sum())

@pytest.mark.parametrize('clip', CLIPS)
def test_audio(io, frames, clip):
    x, want = wav(f'audio_{clip}'), META['expected'][clip]
    mel = logfbank(x)
    assert (len(x), len(mel), len(stack_frames(mel))) == (want['samples'], want['logfbank_frames'], want['stacked'])
    close(mel, io[f'{clip}.logfbank'], 'logfbank')
    close(stack_frames(mel), io[f'{clip}.stacked_audio_only'], 'stacked')
    close(fbank(x), io[f'{clip}.normalised_audio_only'], 'normalised')
    close(fbank(x, len(frames)), io[f'{clip}.normalised_matched'], 'normalised')

def test_padded_batch(io, frames):
    wavs = [wav(f'audio_{c}') for c in CLIPS]
    lengths = torch.tensor([len(w) for w in wavs])
    out = fbank(torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), torch.tensor([len(frames)]*3), lengths)
    for got, clip in zip(out, CLIPS): close(got, io[f'{clip}.normalised_matched'], 'normalised')

def test_silence(io): close(logfbank(wav('audio_silence')), io['silence.logfbank'], 'logfbank')

def test_video(io, frames):
    centre = normalise_video(crop_flip(frames))
    close(centre[:4], io['video.normalised_center_crop'], 'video')
    close(centre[:2], io['video.crop_at_offset'], 'video')
    close(centre[:2].flip(-1), io['video.crop_at_offset_flipped'], 'video')

@pytest.mark.parametrize('snr', (-5, 0, 10))
@pytest.mark.parametrize('case, speech, noise', (
    ('mixed.short', 'aligned', 'short'),
    ('mixed.loud', 'aligned', 'loud'),
    ('mixed_loud_speech.loud', 'loud', 'loud')))
def test_mix(io, case, speech, noise, snr):
    same_counts(mix(wav(f'audio_{speech}'), wav(f'noise_{noise}'), snr), io[f'{case}.snr{snr}'])

def test_average_of_several(io):
    want = META['expected']['average_of_several']
    noise = average_noises([wav(Path(f).stem) for f in want['files_in_order']])
    same_counts(mix(wav('audio_aligned'), noise, want['snr']), io['mixed.average_of_several'])
