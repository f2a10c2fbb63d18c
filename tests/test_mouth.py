"""Mouth clips out of films as people have them: real ones of GRID, other rates, lying on their side, two who talk."""
import json, warnings, weakref
from pathlib import Path
import av, numpy as np, pytest
from avcomp.data.geometries import GEOMETRIES, MOUTH, align, apply_maps
from avcomp.data.mouth import choose_tracks, crop_mouth, weigh_speech
from avcomp.data.quality import QUIET, REACH, distance
from avcomp.data.synthetic.heads import draw_heads, place_heads, turn_about, write_film
from avcomp.data.synthetic.speakers import draw_clip, keyed_rng, make_speaker, speak_clip
from avcomp.data.tracks import follow_faces
from avcomp.data.video import each_frame, open_video
from test_odd_media import film

GRID = Path(__file__).parents[2]/'shared'/'data'/'grid'
CLIPS = ['bbaf2n', 'id2_vcd_swwp2s', 'lwbsza', 'swiz3n']

@pytest.fixture(scope='module')
def real():
    "The mouths of four people of GRID."
    if not all((GRID/f'{name}.mpg').is_file() for name in CLIPS): pytest.skip('GRID is not here')
    return {name: crop_mouth(GRID/f'{name}.mpg') for name in CLIPS}

def test_real_faces(real):
    "A face on every frame, and nothing to complain of."
    for name, mouth in real.items():
        assert mouth.frames.shape == (75, 96, 96), name
        assert (mouth.confidence > 0).all() and mouth.quality.face_share == 1, name
        assert (mouth.quality.shots, mouth.quality.faces, mouth.quality.problems()) == (1, 1, []), name
        assert mouth.quality.mouth_size == pytest.approx(42, abs=6), name

@pytest.mark.parametrize('name', GEOMETRIES)
def test_real_mouths_are_centred_and_of_one_size(real, name):
    """AV-HuBERT's cut goes with the lips of the very frame, to a whole pixel; Auto-AVSR's with their mean over half a
    second, from which lips that open, or hide behind a moustache, are up to 4 pixels away. Eyes are as far apart as in
    the mean face, as far as one face is like another: within 5 %."""
    rule = GEOMETRIES[name]
    target = dict(zip(rule.points, np.array(rule.target)))
    apart = np.linalg.norm(target[45] - target[36])
    for clip, mouth in real.items():
        placed = apply_maps(align(mouth.landmarks, rule), mouth.landmarks)
        lips = placed[:, MOUTH].mean(1)
        assert np.abs(lips - 48).max() < (4 if rule.follow else 0.51), clip
        assert np.abs(lips.mean(0) - 48).max() < 0.5, clip
        assert distance(placed, 36, 45).mean() == pytest.approx(apart, rel=0.05), clip
        level = placed[:, 45] - placed[:, 36]
        assert np.abs(np.degrees(np.arctan2(level[:, 1], level[:, 0]))).mean() < 3, clip

def test_real_sound_fits(real):
    "Three seconds do not tell the lag; four clips together do."
    curve = np.mean([mouth.sync for mouth in real.values()], 0)
    assert abs(int(curve.argmax()) - REACH) <= 1 and curve.max() > 0.3
    assert all(np.isnan(mouth.quality.lag) or abs(mouth.quality.lag) <= 1 for mouth in real.values())

def test_no_picture_of_them_is_committed():
    cells = json.loads((Path(__file__).parents[1]/'nbs'/'data'/'08_mouth.ipynb').read_text(encoding='utf-8'))['cells']
    cell, = (c for c in cells if "'shared'/'data'/'grid'" in ''.join(c['source']))
    assert cell['outputs'] == []

# drawn heads

@pytest.fixture(scope='module')
def talkers():
    "Two speakers: sound, heads, and the mask of a head."
    def speaker(i, *texts):
        one, rng = make_speaker('test', i, 0), keyed_rng('talkers', i)
        said = [speak_clip(text, one, rng) for text in texts]
        heads = [draw_heads(draw_clip(phones, len(wav)//640, one, rng), one.face) for wav, phones in said]
        return np.concatenate([wav for wav, _ in said]), np.concatenate([h for h, _ in heads]), heads[0][1]
    return (speaker(12, 'bin blue at f two now', 'place red with k nine please'),
            speaker(3, 'set green by z three soon', 'lay white in a one again'))

def wall(T, H=200, W=240): return np.linspace(80, 120, W).astype(np.uint8)[None, None].repeat(H, 1).repeat(T, 0)
def walk(seconds): return turn_about(0.7, 5*np.sin(5*seconds), (100 + 50*seconds, 120))

@pytest.mark.parametrize('rate', [25, 30000/1001, 30, 50])
def test_rates(talkers, tmp_path, rate):
    "The head is where it was at the time of each frame, whatever the rate of the film."
    _, heads, mask = talkers[0]
    times = np.arange(round(0.64*rate))/rate
    places = np.stack([walk(t) for t in times])
    write_film(tmp_path/'a.mp4', place_heads(wall(len(times)), heads[(times*25).astype(int)], mask, places), fps=rate)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')   # that frames are chosen by their times
        mouth = crop_mouth(tmp_path/'a.mp4')
    assert len(mouth.frames) == 16 and mouth.quality.face_share == 1
    there = mouth.landmarks[:, MOUTH].mean(1)
    at = np.array([walk(t) @ [128.5, 157.5, 1] for t in np.arange(16)/25])
    assert np.abs(there - at - (there - at).mean(0)).max() < 3   # two pixels a frame, and a picture up to 20 ms off
    assert np.polyfit(np.arange(16), there[:, 0], 1)[0] == pytest.approx(2, abs=0.2)

@pytest.mark.parametrize('turned', [90, 270])
def test_on_its_side(talkers, tmp_path, turned):
    "A telephone that is held upright stores pictures that lie."
    _, heads, mask = talkers[0]
    upright = place_heads(wall(6, 320, 192), heads[:6], mask, turn_about(0.7, 0, (96, 160)))
    try: film(tmp_path/'a.mp4', np.ascontiguousarray(np.rot90(upright, 1, (1, 2))), turned=turned)
    except (ValueError, AttributeError): pytest.skip('this PyAV writes no rotation')
    with av.open(str(tmp_path/'a.mp4')) as f: rotation = next(f.decode(video=0)).rotation
    film(tmp_path/'a.mp4', np.ascontiguousarray(np.rot90(upright, -rotation//90, (1, 2))), turned=turned)
    mouth = crop_mouth(tmp_path/'a.mp4')
    assert np.abs(mouth.landmarks[:, MOUTH].mean(1) - (96, 160)).max() < 5 and mouth.quality.problems() == []

def test_of_two_who_talk(talkers):
    "The one whose voice is heard."
    (left, heads, mask), (right, others, _) = talkers
    T = min(len(heads), len(others))
    frames = place_heads(wall(T, 200, 400), heads[:T], mask, turn_about(0.65, 0, (100, 120)))
    frames = place_heads(frames, others[:T], mask, turn_about(0.65, 0, (290, 120)))
    found = follow_faces(frames)
    assert len(found.tracks) == found.most == 2
    for wav, x in ((left, 100), (right, 290)):
        envelope = 10*np.log10((wav[:T*640].reshape(T, -1)**2).mean(1) + QUIET**2)
        owner, = set(choose_tracks(found, weigh_speech(found, envelope)))
        assert abs(found.tracks[owner].last.middle[0] - x) < 20

@pytest.mark.parametrize('T', [1, 2])
def test_hardly_a_film(talkers, tmp_path, T):
    _, heads, mask = talkers[0]
    write_film(tmp_path/'a.mp4', place_heads(wall(T), heads[:T], mask, walk(0)), np.zeros(640*T))
    for geometry in GEOMETRIES:
        mouth = crop_mouth(tmp_path/'a.mp4', geometry)
        assert mouth.frames.shape == (T, 96, 96) and mouth.quality.jitter == 0 and np.isnan(mouth.quality.lag)

def test_memory(talkers, tmp_path):
    "A film is never in memory as a whole."
    _, heads, mask = talkers[0]
    write_film(tmp_path/'a.mp4', place_heads(wall(30), heads[:30], mask, walk(0)))
    alive, most = [], []
    def watched():
        for gray in each_frame(open_video(tmp_path/'a.mp4')):
            gray = gray.copy()
            alive.append(weakref.ref(gray))
            most.append(sum(ref() is not None for ref in alive))
            yield gray
    assert len(follow_faces(watched())) == 30
    assert max(most) <= 2
