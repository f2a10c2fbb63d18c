"""Mouth clips from films, in turn: frames a second on one core, decoding included, and what 10,000 clips take.

Times are those of the processor, so that neighbours on the machine count little.

    python -m benchmarks.cropping                      # drawn speakers, 360x288
    python -m benchmarks.cropping --films a.mpg b.mpg  # films of your own
"""
import argparse, statistics, tempfile, time
from pathlib import Path
import cv2, numpy as np
from avcomp.data.faces import face_models
from avcomp.data.mouth import crop_mouth, cut_frames, find_faces, plan_mouth
from avcomp.data.synthetic.heads import draw_heads, place_heads, turn_about, write_film
from avcomp.data.synthetic.speakers import draw_clip, keyed_rng, make_speaker, speak_clip
from avcomp.data.video import each_frame, open_video
from avcomp.evaluate.cost import ratios, use_threads

WANTED = 60            # frames a second on one core
SIZE = 360, 288        # pixels of GRID's films
CLIPS, SECONDS, CORES, DAY = 10000, 3, 16, 24*3600


def drawn(folder, count):
    "Films of drawn speakers, of three seconds each."
    W, H = SIZE
    for i in range(count):
        speaker, rng = make_speaker('test', i, 0), keyed_rng('cropping', i)
        wav, phones = speak_clip('place red with k nine please', speaker, rng)
        heads, mask = draw_heads(draw_clip(phones, len(wav)//640, speaker, rng), speaker.face)
        heads = np.concatenate([heads, heads])[:75]
        places = [turn_about(0.95, 4*np.sin(t/9), (180 + 15*np.sin(t/12), 190)) for t in range(75)]
        wall = np.linspace(70, 120, W).astype(np.uint8)[None, None].repeat(H, 1).repeat(75, 0)
        write_film(folder/f'{i}.mp4', place_heads(wall, heads, mask, np.stack(places)), wav)
    return sorted(folder.glob('*.mp4'))


def time_in_turn(calls, repeats):
    "Milliseconds of the processor that each call takes, round by round; the first round does not count."
    times = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(1000*(time.process_time() - start))
    return {name: found[1:] for name, found in times.items()}


def steps(film, repeats):
    "What one film costs, step by step."
    video, plan, detector = open_video(film), plan_mouth(film), face_models()[0]
    frames = list(each_frame(video))
    times = time_in_turn({
        'all: crop_mouth': lambda: crop_mouth(film),
        'decoding': lambda: [None for _ in each_frame(video)],
        'first pass: faces and landmarks': lambda: find_faces(video),
        'second pass: decoding and cutting': lambda: [None for _ in cut_frames(plan)],
        'the bare detector, whole frames': lambda: [detector.run(f, 0, 0.) for f in frames]}, repeats)
    height, width = frames[0].shape
    print(f'{film.name}: {len(frames)} frames of {width}x{height}, one thread; time over that of all')
    for name, (low, mid, high) in ratios(times).items():
        speed = 1000*len(frames)/statistics.median(times[name])
        print(f'  {name:34} {speed:9,.0f} frames/s   ratio {mid:5.2f} ({low:.2f} to {high:.2f})')
    return 1000*len(frames)/statistics.median(times['all: crop_mouth'])


def plan_corpus(speed):
    "The time for a corpus, by the speed that was measured."
    hours = CLIPS*SECONDS*25/speed/3600
    print(f'{speed:,.0f} frames/s a core ({WANTED} wanted): {CLIPS:,} clips of {SECONDS} s are {hours:.1f} hours of '
          f'one core, {60*hours/CORES:.0f} minutes of {CORES}; in a day {CORES} cores do '
          f'{DAY*CORES*speed/25/3600:,.0f} hours of film')


def main(films=(), count=2, repeats=5):
    cv2.setNumThreads(1)
    with use_threads(1), tempfile.TemporaryDirectory() as folder:
        films = [Path(f) for f in films] or drawn(Path(folder), count)
        plan_corpus(statistics.median([steps(film, repeats) for film in films]))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--films', nargs='*', default=())
    p.add_argument('--count', type=int, default=2)
    p.add_argument('--repeats', type=int, default=5)
    main(**vars(p.parse_args()))
