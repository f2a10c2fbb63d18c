"Bad input ends in an error that names it, before anything is lost: the way from files on disk to a launched job."
import errno, shutil
from pathlib import Path
import lightning as L, numpy as np, pytest, soundfile as sf
from lhotse import CutSet
from safetensors.torch import load_file, save_file
import avcomp.data.clips as clips
import avcomp.models.checkpoints as checkpoints
from avcomp.data.batches import ClipDataset, make_loader
from avcomp.data.clips import check_cuts, load_clip, load_cuts, read_wav, resample, save_cuts, write_video, write_wav
from avcomp.data.synthetic import make_corpus
from avcomp.models.checkpoints import load_model, save_model
from avcomp.models.avhubert_s2s import AVHubertS2S, avhubert_s2s_config
from avcomp.train.launch import Data, finished, launch, resume_point
from toy import corpus, job, parts

@pytest.fixture
def bad(corpus, tmp_path):
    "A copy of the corpus to damage, and one of its training clips."
    shutil.copytree(corpus, tmp_path/'corpus')
    return tmp_path/'corpus', next(iter(load_cuts(tmp_path/'corpus', 'train')))

def rewrite(folder, change):
    "Change every training cut of a manifest."
    cuts = list(load_cuts(folder, 'train'))
    for c in cuts: change(c)
    save_cuts(cuts, folder, 'train')

# damage to one clip: what is done to it (video, sound, cut), what the error says in training and in `check_cuts`
DAMAGE = {
    'missing mp4':   (lambda v, a, c: v.unlink(), 'missing file', 'missing video'),
    'missing wav':   (lambda v, a, c: a.unlink(), 'missing file', 'missing sound'),
    'corrupt mp4':   (lambda v, a, c: v.write_bytes(b'no film'*100), 'no readable mp4', 'unreadable video'),
    'cut-off mp4':   (lambda v, a, c: v.write_bytes(v.read_bytes()[:len(v.read_bytes())//2]), 'damaged or cut short', 'unreadable video'),
    'short mp4':     (lambda v, a, c: write_video(v, load_clip(c)[1][:-5]), 'the manifest says', 'another number of frames'),
    'corrupt wav':   (lambda v, a, c: a.write_bytes(b'no sound'*100), 'no readable audio', 'unreadable sound'),
    'short wav':     (lambda v, a, c: write_wav(a, read_wav(a)[:-8000]), 'but audio lasts', 'sound and video differ'),
}

@pytest.mark.parametrize('name', DAMAGE)
def test_damaged_clip(bad, job, tmp_path, name):
    folder, cut = bad
    damage, in_training, in_check = DAMAGE[name]
    damage(Path(cut.custom['video']), Path(cut.recording.sources[0].source), cut)
    wrong = job('finetune', tmp_path/'out', dict(updates=4), data=Data(folder=str(folder)))
    with pytest.raises((ValueError, OSError), match=in_training) as e: launch(wrong)
    assert cut.id in str(e.value)                     # the clip, or its file, which bears its name
    assert finished(wrong) is None
    with pytest.raises(ValueError, match=in_check) as e: check_cuts(load_cuts(folder, 'train'))
    assert cut.id in str(e.value)

def test_empty_transcript(bad, job, tmp_path):
    folder, cut = bad
    def change(c):
        if c.id == cut.id: c.supervisions[0].text = ' '
    rewrite(folder, change)
    with pytest.raises(ValueError, match=f'{cut.id}: empty transcript'): launch(job('finetune', tmp_path/'a', data=Data(folder=str(folder))))
    assert not (tmp_path/'a').exists()
    assert launch(job('joint', tmp_path/'b', dict(updates=1), data=Data(folder=str(folder))))['updates'] == 1   # distillation reads no text

@pytest.mark.parametrize('rate, channels', [(48000, 1), (16000, 2), (22050, 2)])
def test_other_rates_and_channels(bad, rate, channels):
    "Resampled and averaged: nearly the same features, and no error."
    folder, cut = bad
    def batch(): return next(iter(make_loader(ClipDataset([c for c in load_cuts(folder, 'train') if c.id == cut.id], modalities=('audio',)), 200)))['audio']
    before, path = batch(), cut.recording.sources[0].source
    wav = resample(read_wav(path), 16000, rate)
    sf.write(path, np.stack([wav*0.5, wav*1.5][:channels] if channels > 1 else [wav], 1), rate)
    after = batch()
    assert after.shape == before.shape
    assert (after - before).abs().mean() < 0.05 and check_cuts(load_cuts(folder, 'train'))

def test_units_and_targets_are_checked_before_training(job, tmp_path):
    for change, told in ((dict(target_sparsity=0.9), 'target sparsity 0.9 cannot be reached.*at most'), (dict(target_sparsity=-0.1), 'cannot be reached'),
                         (dict(target_sparsity=((('video',), 0.99), (('encoder',), 0.2))), "cannot be reached for .'video'"), (dict(units=('experts',)), "'experts'.*choose from")):
        with pytest.raises(ValueError, match=told): launch(job('joint', tmp_path/'out', change))
    assert not (tmp_path/'out').exists()

def test_checkpoints_that_do_not_fit(job, parts, tmp_path):
    def copy(name): return Path(shutil.copytree(parts/'student', tmp_path/name))
    config = copy('family')/'config.json'
    config.write_text(config.read_text().replace('"avhubert"', '"parrot"'))
    file = copy('missing')/'model.safetensors'
    save_file({k: v for k, v in load_file(file).items() if 'fc1' not in k}, file)
    (copy('cut')/'model.safetensors').write_bytes(file.read_bytes()[:3000])
    for name, told in (('family', "'parrot'"), ('missing', 'missing.*fc1'), ('cut', 'damaged or cut short')):
        for role in ('student', 'teacher'):
            with pytest.raises(ValueError, match=told): launch(job('joint', tmp_path/'out', **{role: str(tmp_path/name)}))
    save_model(AVHubertS2S(avhubert_s2s_config('tiny', encoder=load_model(parts/'student').config, vocab_size=40)), tmp_path/'s2s')
    with pytest.raises(ValueError, match="family 'avhubert_s2s'"): launch(job('pretrain', tmp_path/'out', student=str(tmp_path/'s2s'), labels=str(tmp_path)))
    with pytest.raises(ValueError, match='carries no tokenizer'): launch(job('finetune', tmp_path/'out', student=str(tmp_path/'s2s')))
    assert not (tmp_path/'out').exists()

def fill_disk(monkeypatch, owner, name, after=0):
    "Let `owner.name(.., path, ..)` write half a file and fail, from its call number `after` on."
    real, calls = getattr(owner, name), []
    def full(*args, **kwargs):
        calls.append(0)
        if len(calls) <= after: return real(*args, **kwargs)
        path = next(Path(a) for a in args if isinstance(a, (str, Path)))
        path.write_bytes(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(owner, name, full)

def content(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}

def test_full_disk_while_saving_a_model(parts, job, tmp_path):
    one = job('finetune', tmp_path/'out', dict(updates=1))
    launch(one)
    model, before = load_model(parts/'student'), content(tmp_path/'out'/'model')
    with pytest.MonkeyPatch.context() as m:
        fill_disk(m, checkpoints, 'save_file')
        with pytest.raises(OSError, match='No space'): save_model(model, tmp_path/'out'/'model')
        with pytest.raises(OSError, match='No space'): save_model(model, tmp_path/'new')
        again = job('finetune', tmp_path/'out', dict(updates=2))
        with pytest.raises(OSError, match='No space'): launch(again)
    assert content(tmp_path/'out'/'model') == before and finished(again) is None and finished(one)
    assert [p.name for p in tmp_path.iterdir()] == ['out'] and not list((tmp_path/'out').glob('.*'))

def test_full_disk_while_saving_a_checkpoint(job, tmp_path):
    one, ckpt = job('finetune', tmp_path/'out', dict(updates=3), checkpoint_every=1), tmp_path/'out'/'last.ckpt'
    with pytest.MonkeyPatch.context() as m:
        fill_disk(m, L.Trainer, 'save_checkpoint', after=1)
        with pytest.raises(OSError, match='No space'): launch(one)
    assert resume_point(ckpt, one.id) == 1 and not list(ckpt.parent.glob('.*'))
    assert launch(one)['resumed']

class FullVideoWriter:
    "OpenCV tells nobody when frames do not reach the disk."
    def __init__(self, *args, real=clips.cv2.VideoWriter, **kwargs): self.film, self.left = real(*args, **kwargs), 5
    def write(self, frame):
        if self.left: self.film.write(frame); self.left -= 1
    def release(self): self.film.release()

@pytest.mark.parametrize('what', ['sound', 'video', 'manifest'])
def test_full_disk_while_making_a_corpus(tmp_path, what):
    "What is written stays, nothing half-written is left, and the next call finishes the work."
    how = dict(clips=(2, 1, 1), noise_files=(1, 1, 1), num_workers=0)
    with pytest.MonkeyPatch.context() as m:
        if what == 'video': m.setattr(clips.cv2, 'VideoWriter', FullVideoWriter)
        else: fill_disk(m, *{'sound': (clips.sf, 'write', 3), 'manifest': (CutSet, 'to_file', 1)}[what])
        with pytest.raises(OSError, match='No space|is the disk full'): make_corpus(tmp_path/'corpus', **how)
    assert not [p for p in (tmp_path/'corpus').rglob('*') if p.is_file() and (p.name.startswith('.') or p.read_bytes() == b'half')]
    make_corpus(tmp_path/'corpus', **how)
    for split in ('train', 'valid', 'test'): check_cuts(load_cuts(tmp_path/'corpus', split))
