"""Films and sounds as users have them: each is read right, or refused in words that name file, finding and remedy.

The pictures of a film carry their number in six blocks, so that one can see which of them came back."""
import io, os, warnings
from fractions import Fraction
from functools import partial
from pathlib import Path
import av, numpy as np, pytest, soundfile as sf
from hypothesis import HealthCheck, given, settings, strategies as st
from avcomp.data.clips import check_cuts, load_clip, make_cut
from avcomp.data.corpora import open_corpus
from avcomp.data.media import BadMedia
from avcomp.data.sound import open_sound, read_wav, write_wav
from avcomp.data.video import read_video, write_video

N, BITS = 32, 5
NUMBERED = np.full((N, 96, 96), 60, np.uint8)
for n in range(N):
    for b in range(BITS): NUMBERED[n, 8:40, 8 + 16*b:20 + 16*b] = 220 if n >> b & 1 else 20
    NUMBERED[n, 56:88, 8:88] = 40 + 5*n

def number(frame): return sum(1 << b for b in range(BITS) if frame[12:36, 10 + 16*b:18 + 16*b].mean() > 120)
def seen(path): return [number(f) for f in read_video(path)]

# how odd files are made: path -> nothing

def film(path, frames=NUMBERED, codec='libx264', rate=25, form=None, shift=0, at=None, turned=0, song=False, **options):
    "A film of any codec and container; `shift` and `at` set the times of its pictures."
    pix = dict(gif='rgb8', mjpeg='yuvj420p').get(codec, 'yuv420p')
    with av.open(str(path), 'w', format=form, options=options) as out:
        stream = out.add_stream(codec, rate=rate, options={'preset': '12'} if codec == 'libsvtav1' else {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:], pix
        stream.codec_context.thread_count = 1
        voice = song and out.add_stream('aac', rate=16000, layout='mono')
        if turned: stream.set_display_rotation(turned)
        if at: stream.codec_context.time_base = Fraction(1, 1000)
        for i, f in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(f, format='gray').reformat(format=pix)
            if at: picture.pts, picture.time_base = at[i], Fraction(1, 1000)
            for p in stream.encode(picture): mux(out, p, shift)
        for p in stream.encode(): mux(out, p, shift)
        if voice: sing(out, voice)

def mux(out, packet, shift):
    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
    out.mux(packet)

def sing(out, stream):
    "A second of noise."
    frame = av.AudioFrame.from_ndarray(np.random.default_rng(0).normal(0, .1, (1, 16000)).astype('f4'), 'fltp', 'mono')
    frame.sample_rate = 16000
    for f in (frame, None): out.mux(stream.encode(f))

def song(path, codec='aac', form=None, **options):
    "Sound in a container."
    with av.open(str(path), 'w', format=form, options=options) as out:
        sing(out, out.add_stream(codec, rate=16000, layout='mono'))

def tone(n=16000): return np.random.default_rng(0).normal(0, .1, n).clip(-1, 1)
def sound(path, channels=1, **kind): sf.write(path, np.stack([tone()]*channels, 1), 16000, **kind)

def edited(make, change):
    "A file whose bytes are changed after it was made."
    def odd(path):
        make(path)
        path.write_bytes(change(path.read_bytes()))
    return odd

def part(share): return lambda b: b[:int(len(b)*share)]
def written(content): return lambda path: path.write_bytes(content)

def endless(b):
    "A flac that does not say how many samples it has."
    return b[:21] + bytes([b[21] & 0xf0]) + bytes(4) + b[26:]

def without_count(b):
    "An mp3 whose first frame, which holds nothing but their count, is cut out."
    second = b.index(b[:3], 4)
    return b[second:]

def claiming(n):
    "A wav that says how many bytes of samples it has."
    return lambda b: b[:40] + n.to_bytes(4, 'little') + b[44:]

WHOLE, LFS = list(range(N)), b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
MPEG4 = partial(film, codec='mpeg4')
FAST = partial(film, movflags='+faststart')
BARE = partial(film, form='h264')
UNEVEN = [0, 40, 80, 160, 280, 300, 420, 600]   # ms
VIDEOS = {   # name of the file -> how it is made; the pictures that are its frames, or what the error says
    'plain.mp4': (film, WHOLE),
    'plain.mkv': (film, WHOLE),
    'plain.mov': (film, WHOLE),
    'plain.ts': (film, WHOLE),
    'plain.flv': (film, WHOLE),
    'mpeg2.mpg': (partial(film, codec='mpeg2video'), WHOLE),
    'mpeg4.avi': (MPEG4, WHOLE),
    'motion.avi': (partial(film, codec='mjpeg'), WHOLE),
    'lossless.mkv': (partial(film, codec='ffv1'), WHOLE),
    'vp9.webm': (partial(film, codec='libvpx-vp9'), WHOLE),
    'av1.mp4': (partial(film, codec='libsvtav1'), WHOLE),
    'moving.gif': (partial(film, codec='gif'), WHOLE),
    'bare.h264': (BARE, WHOLE),
    'bare.hevc': (partial(film, codec='libx265', form='hevc'), WHOLE),
    'bare.m2v': (partial(film, codec='mpeg2video', form='mpeg2video'), WHOLE),
    'pieces.mp4': (partial(film, movflags='+frag_keyframe+empty_moov'), WHOLE),
    'edit list.mp4': (partial(film, shift=-10, avoid_negative_ts='disabled'), WHOLE[10:]),
    'late.mp4': (partial(film, shift=20), WHOLE),
    '50 fps.mp4': (partial(film, rate=50), WHOLE[::2]),
    '30 fps.mp4': (partial(film, rate=30), [k for k in WHOLE if k % 6 != 3][:27]),
    '24 fps.mp4': (partial(film, rate=24), sorted([*WHOLE, 11])),
    'uneven.mkv': (partial(film, frames=NUMBERED[:8], at=UNEVEN), None),
    'slides.mp4': (partial(film, rate=Fraction(1, 3)), 'shows one picture for 3.0 s, from 0.0 s on'),
    'song.mp4': (song, r'no moving pictures that can be decoded, but audio \(aac\); give the film itself'),
    'sound.wav': (sound, 'no moving pictures'),
    'no index.mp4': (edited(film, part(.6)), r'an mp4 without its index \(moov\), damaged or cut short; .*copy it'),
    'download.mp4': (edited(FAST, part(.8)), r'breaks off after \d+ pictures: it is damaged or cut short'),
    'cut.mkv': (edited(film, part(.7)), 'breaks off after'),
    'cut.ts': (edited(film, part(.7)), 'breaks off after'),
    'cut.avi': (edited(MPEG4, part(.5)), 'breaks off after|damaged or cut short'),
    'cut.h264': (edited(BARE, lambda b: b[:-9]), 'has 32 pictures of one size, but 32 .*not all whole: it is damaged'),
    'cut.gif': (edited(partial(film, codec='gif'), part(.9)), 'breaks off after'),
    'pointer.mp4': (written(LFS), 'a git-lfs pointer; run `git lfs pull`'),
    'page.mp4': (written(b'<!DOCTYPE html><html>Sign in</html>'), 'a web page; get the file itself'),
    'empty.mp4': (written(b''), 'empty; copy it again'),
    'zeros.mp4': (written(bytes(5000)), 'nothing but zeros'),
    'archive.mp4': (written(b'PK\3\4' + bytes(range(256))), 'an archive; unpack it'),
}
CHANGED = '50 fps.mp4', '30 fps.mp4', '24 fps.mp4', 'uneven.mkv'   # other frames than pictures, so a warning says so
UNTIMED = 'bare.h264', 'bare.hevc', 'bare.m2v'   # they may lack an end, and a warning says so
SOUNDS = {   # name of the file -> how it is made; samples at 16 kHz, or what the error says
    'plain.wav': (sound, 16000),
    '24 bit.wav': (partial(sound, subtype='PCM_24'), 16000),
    'double.wav': (partial(sound, subtype='DOUBLE'), 16000),
    'law.wav': (partial(sound, subtype='ULAW'), 16000),
    'sphere.wav': (partial(sound, format='NIST'), 16000),
    'six.flac': (partial(sound, channels=6), 16000),
    'plain.ogg': (sound, 16000),
    'plain.opus': (partial(sound, format='OGG', subtype='OPUS'), 16000),
    'plain.mp3': (sound, 16000),
    'song.m4a': (partial(song, form='mp4'), range(16000, 18100)),
    'film.mp4': (partial(film, song=True), range(16000, 18100)),
    'endless.flac': (edited(sound, endless), 16000),
    'no count.mp3': (edited(sound, without_count), range(16000, 18100)),
    'piped.wav': (edited(sound, claiming(0xffffffff)), 16000),
    'never closed.wav': (edited(sound, claiming(0)), 'names 0 samples, but 32000 bytes more follow.*write it again'),
    'half known.wav': (edited(sound, claiming(16000)), 'names 8000 samples, but 16000 bytes more follow'),
    'cut.wav': (edited(sound, part(.25)), 'ends before its sound does: it is damaged or cut short; make or copy'),
    'cut.aiff': (edited(sound, part(.9)), 'ends before its sound does'),
    'cut.sph': (edited(partial(sound, format='NIST'), part(.9)), 'ends before its sound does'),
    'cut.flac': (edited(sound, part(.5)), 'damaged or cut short'),
    'cut.ogg': (edited(sound, part(.9)), 'ends before its sound does'),
    'cut.mp3': (edited(sound, part(.5)), 'names 16000 samples, but only'),
    'counts.wav': (lambda path: sf.write(path, tone()*32768, 16000, subtype='FLOAT'), 'divide 16-bit counts by 32768'),
    'bare.aac': (partial(song, form='adts'), r'it is aac with audio \(aac\); convert it to wav, flac or mp3'),
    'silent.mp4': (film, r'holds no sound, but video \(h264\); give the audio file'),
    'pointer.wav': (written(LFS), 'a git-lfs pointer; run `git lfs pull`'),
    '._note.wav': (written(b'\0\5\x16\7\0\2\0\0Mac OS X'), 'a note of macOS about a file; leave it out'),
}

def check(path, make, expected, read):
    make(path)
    if isinstance(expected, str):
        with pytest.raises(BadMedia, match=expected) as e: read(path)
        assert path.name in str(e.value) and ';' in str(e.value) and e.value.finding
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        found = read(path)
    return found, [str(w.message) for w in said]

@pytest.mark.parametrize('name', VIDEOS)
def test_odd_films(tmp_path, name):
    make, expected = VIDEOS[name]
    if (result := check(tmp_path/name, make, expected, seen)) is None: return
    found, said = result
    if expected is None: expected = filtered(tmp_path/name)
    assert found == expected
    assert len(said) == (name in (*CHANGED, *UNTIMED))
    assert name not in UNTIMED or f'{name} is a bare stream' in said[0] and '32 of them are taken for 1.28 s' in said[0]

def filtered(path):
    "What ffmpeg's own filter makes of a film."
    with av.open(str(path)) as film:
        graph, stream = av.filter.Graph(), film.streams.video[0]
        graph.link_nodes(graph.add_buffer(stream), graph.add('fps', '25'), graph.add('buffersink')).configure()
        for f in (*film.decode(stream), None): graph.push(f)
        found = []
        while True:
            try: found.append(number(graph.pull().to_ndarray(format='gray')))
            except (av.error.EOFError, av.error.BlockingIOError): return found

@pytest.mark.parametrize('name', CHANGED)
def test_frames_are_those_of_ffmpegs_filter(tmp_path, name):
    VIDEOS[name][0](tmp_path/name)
    with pytest.warns(UserWarning, match=f'{name} has .* convert the file to 25 a second'): found = seen(tmp_path/name)
    assert found == filtered(tmp_path/name)

@pytest.mark.parametrize('name', SOUNDS)
def test_odd_sounds(tmp_path, name):
    make, expected = SOUNDS[name]
    if (result := check(tmp_path/name, make, expected, read_wav)) is None: return
    found, said = result
    assert not said and len(found) in (expected if isinstance(expected, range) else [expected])
    with open_sound(tmp_path/name) as f: assert len(f) == len(found)
    heard = np.corrcoef(found[2000:12000], tone()[2000:12000])[0, 1] if name not in ('film.mp4', 'song.m4a') else 1
    assert heard > .5 or name in ('plain.mp3', 'no count.mp3', 'plain.opus')   # these begin later

@pytest.mark.parametrize('turned', [90, 180, 270])
def test_a_film_that_lies_on_its_side(tmp_path, turned):
    bar = np.full((10, 96, 128), 30, np.uint8)
    bar[:, :20] = 220
    for name in ('a.mp4', 'a.mkv'):
        try: film(tmp_path/name, bar, turned=turned)
        except (ValueError, AttributeError): pytest.skip('this PyAV writes no rotation')
        with av.open(str(tmp_path/name)) as f: picture = next(f.decode(video=0))
        assert abs(picture.rotation) in (turned, 360 - turned)
        upright = np.rot90(bar[0].astype(int), picture.rotation//90)
        assert np.abs(read_video(tmp_path/name)[0] - upright).mean() < 3

@pytest.mark.parametrize('name', ['id2_vcd_swwp2s', 'bbaf2n', 'lwbsza', 'swiz3n'])
def test_grid(name):
    "All pictures of GRID's own files, of which decord loses the first twelve."
    path = Path(__file__).parents[2]/'shared'/'data'/'grid'/f'{name}.mpg'
    if not path.is_file(): pytest.skip('GRID is not here')
    with av.open(str(path)) as f:
        wanted = [p.to_ndarray(format='rgb24') @ [.299, .587, .114] for p in f.decode(video=0)]
    found = read_video(path)
    assert len(found) == len(wanted) == 75
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(found, wanted)) < 0.6

# what belongs to a clip

CLIPS = {   # what is odd -> pictures, seconds of sound; what the error says, or None
    'a mouth': (NUMBERED, 1.28, None),
    'sound half a second longer': (NUMBERED, 1.78, None),
    'sound half a second shorter': (NUMBERED, .78, None),
    'sound too long': (NUMBERED, 1.80, 'may differ by 0.5 s'),
    'a whole face': (NUMBERED.repeat(2, 1).repeat(2, 2), 1.28, '192x192, which show more than a mouth.*; crop'),
    'darkness': (NUMBERED*0, 1.28, '32 of 32 pictures of one colour.*; crop the mouth again, or leave'),
    'darkness in the end': (np.where(np.arange(N)[:, None, None] < 9, NUMBERED, 0), 1.28, '23 of 32 pictures of one'),
    'a picture': (NUMBERED[:1].repeat(N, 0), 1.28, 'the same picture 32 times'),
}

@pytest.mark.parametrize('name', CLIPS)
def test_odd_clips(tmp_path, name):
    frames, seconds, told = CLIPS[name]
    write_video(tmp_path/'a.mp4', frames.astype(np.uint8))
    write_wav(tmp_path/'a.wav', tone(int(16000*seconds)))
    cut = make_cut('a', tmp_path/'a.wav', tmp_path/'a.mp4', 'words')
    if told is None:
        assert check_cuts([cut])
        return
    with pytest.raises(BadMedia, match=told) as e: load_clip(cut)
    with pytest.raises(ValueError, match='1 bad ones: 1 x') as listed: check_cuts([cut])
    assert e.value.finding in str(listed.value)

def test_a_list_of_another_rate(tmp_path):
    "60 pictures of two seconds are 50 frames; a list that counts 60 is refused."
    write_video(tmp_path/'a.mp4', NUMBERED[np.arange(60) % N], fps=30)
    write_wav(tmp_path/'a.wav', tone(32000))
    with pytest.warns(UserWarning, match='60 pictures in 2.00 s .30.00 a second.'):
        assert len(load_clip(make_cut('a', tmp_path/'a.wav', tmp_path/'a.mp4'))[1]) == 50
        with pytest.raises(BadMedia, match='the manifest says 60 frames, .*a.mp4 has 50 at 25 a second'):
            load_clip(make_cut('a', tmp_path/'a.wav', tmp_path/'a.mp4', num_frames=60))

def test_a_corpus_says_what_is_wrong_with_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv('AVCOMP_CACHE', str(tmp_path/'cache'))
    (tmp_path/'c'/'train').mkdir(parents=True)
    for name in ('plain.wav', 'endless.flac', 'cut.wav', 'pointer.wav'): SOUNDS[name][0](tmp_path/'c'/'train'/name)
    with pytest.raises(ValueError, match='2 of 4 files.*breaks off: damaged or cut short.*cut.wav.*a git-lfs pointer'):
        open_corpus('audio', tmp_path/'c')
    for name in ('cut.wav', 'pointer.wav'): (tmp_path/'c'/'train'/name).unlink()
    assert [c.duration for c in open_corpus('audio', tmp_path/'c').cuts['train']] == [1., 1.]

def test_channels_that_cancel_out(tmp_path):
    sf.write(tmp_path/'a.wav', np.stack([tone(), -tone()], 1), 16000)
    with pytest.warns(UserWarning, match='a.wav has channels of opposite phase.*write one of them alone'):
        read_wav(tmp_path/'a.wav')
    sf.write(tmp_path/'b.wav', np.stack([tone(), tone()[::-1]], 1), 16000)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        read_wav(tmp_path/'b.wav')

# files that break off anywhere

MARKED = ('plain.mp4', 'plain.mkv', 'mpeg4.avi', 'moving.gif', 'plain.ts',
          'plain.wav', 'plain.flac', 'plain.ogg', 'plain.aiff')

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "Films and sounds by name: their bytes, how they are read, and what is in them."
    folder, found = tmp_path_factory.mktemp('whole'), {}
    for name in MARKED:
        make = VIDEOS[name][0] if name in VIDEOS else sound
        make(folder/name)
        read = seen if name in VIDEOS else read_wav
        found[name] = (folder/name).read_bytes(), read, list(read(folder/name))
    return folder, found

@pytest.fixture(scope='module')
def quiet():
    "Decoders write about damage to the process's own standard error."
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    yield
    os.dup2(kept, 2)
    os.close(kept)
    os.close(null)

@settings(max_examples=60, deadline=5000, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(name=st.sampled_from(MARKED), share=st.floats(0, 0.999), cut=st.integers(1, 40), near=st.booleans())
def test_files_that_break_off(whole, quiet, name, share, cut, near):
    "All of it, or an error that names the file; a stream without an end may be a shorter one."
    folder, found = whole
    content, read, everything = found[name]
    path = folder/f'cut-{name}'
    path.write_bytes(content[:-cut] if near else content[:int(share*len(content))])
    try: got = list(read(path))
    except BadMedia as e:
        assert path.name in str(e) and ';' in str(e)
        return
    assert got == (everything[:len(got)] if name == 'plain.ts' else everything)

STARTS = b'', b'RIFF', b'fLaC', b'OggS', b'ID3', b'FORM', b'NIST_1A', b'\0\0\0\x1cftypisom'

@settings(max_examples=40, deadline=5000, derandomize=True, database=None)
@given(content=st.binary(max_size=200), start=st.sampled_from(STARTS))
def test_anything_is_a_sound_or_refused(quiet, content, start):
    file = io.BytesIO(start + content)
    file.name = 'odd file'
    try: wav = read_wav(file)
    except BadMedia as e: assert 'odd file' in str(e)
    else: assert np.isfinite(wav).all()
