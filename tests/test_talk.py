"Raw films become text and a corpus: real clips where they are at hand, other processes, a run that is killed."
import csv, json
from pathlib import Path
import numpy as np, pytest
from avcomp.__main__ import main
from avcomp.data.corpora import open_corpus
from avcomp.data.raw.prepare import prepare_corpus
from avcomp.data.synthetic.heads import draw_heads, place_heads, turn_about, write_film
from avcomp.data.synthetic.speakers import draw_clip, keyed_rng, make_speaker, speak_clip
from avcomp.data.video import FPS

GRID = Path(__file__).parents[2]/'shared'/'data'/'grid'
real = pytest.mark.skipif(not GRID.is_dir(), reason='the four clips of GRID are not at hand')

@real
def test_real_film_is_read(capsys):
    "A clip of GRID by the command line: words of the grammar in order, and a line about the face."
    assert main(['transcribe', str(GRID/'bbaf2n.mpg'), '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['modality'] == 'av' and 'face in 100%' in found['quality'][0]
    times = [(w['start'], w['end']) for w in found['words']]
    assert len(times) == 6 and times == sorted(times) and all(0 <= a < b <= found['seconds'] for a, b in times)
    assert found['words'][0]['text'] in ('bin', 'lay', 'place', 'set')

@real
def test_real_films_are_a_corpus(tmp_path):
    made = prepare_corpus(GRID, tmp_path, 'grid')
    said = {c.id: c.supervisions[0].text for cuts in open_corpus('embedded', tmp_path).cuts.values() for c in cuts}
    assert not made.left_out and said == {
        'bbaf2n': 'bin blue at f two now', 'id2/swwp2s': 'set white with p two soon',
        'lwbsza': 'lay white by s zero again', 'swiz3n': 'set white in z three now'}

@pytest.fixture(scope='module')
def films(tmp_path_factory):
    "Two drawn people, and a film of nobody."
    folder = tmp_path_factory.mktemp('films')
    for n in (3, 4):
        who = make_speaker('test', n, 0)
        wav, phones = speak_clip('bin blue at f two now', who, keyed_rng(n, 'talk'))
        heads, mask = draw_heads(draw_clip(phones, len(wav)*FPS//16000, who, keyed_rng(n, 'mouth')), who.face)
        room = np.full((len(heads), 240, 320), 90, np.uint8)
        write_film(folder/f'{n}.mp4', place_heads(room, heads, mask, turn_about(0.8, 0, (150, 150))), wav)
    write_film(folder/'wall.mp4', np.full((10, 240, 320), 90, np.uint8), np.zeros(6400))
    return folder

def clips(out): return {p.name: p.read_bytes() for p in sorted((out/'clips').iterdir())}

def test_stopped_run_goes_on(films, tmp_path, monkeypatch):
    "A run that dies in its second film, and the same in another process, end in the same corpus."
    from avcomp.data.raw import prepare
    one, seen = prepare.film_outcome, []
    def dies(raw, *args):
        seen.append(raw.id)
        if len(seen) == 2: raise KeyboardInterrupt
        return one(raw, *args)
    monkeypatch.setattr(prepare, 'film_outcome', dies)
    with pytest.raises(KeyboardInterrupt): prepare_corpus(films, tmp_path/'a')
    assert not (tmp_path/'a'/'train.jsonl.gz').exists() and len(clips(tmp_path/'a')) == 2
    prepare_corpus(films, tmp_path/'a')
    assert len(seen) == 4 and seen[2:] == seen[1:2] + ['wall']   # what was finished is not made again
    monkeypatch.undo()
    made = prepare_corpus(films, tmp_path/'b', num_workers=1)
    assert clips(tmp_path/'a') == clips(tmp_path/'b') and made.reasons == {'no face': 1}
    assert open_corpus('embedded', tmp_path/'a').id == open_corpus('embedded', tmp_path/'b').id
    assert [row[0] for row in csv.reader(open(tmp_path/'a'/'left_out.csv'))] == ['id', 'wall']
