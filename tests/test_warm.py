"A forked process is what one of the command line would be: see warm.py."
import os, signal, subprocess, sys, time
import psutil
from warm import Fork, warm_python

def python(*args, name='', **kwargs):
    command = [warm_python(), *args]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {'NAME': name}, **kwargs)

def test_arguments_files_folder_environment_and_exit_code(tmp_path):
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['NAME'], sys.stdin.read()); sys.exit('bad')"
    done = python('-c', code, 'a', 'b c', cwd=tmp_path, name='x', input='said')
    assert (done.returncode, done.stdout, done.stderr) == (1, f"['-c', 'a', 'b c'] {tmp_path} x said\n", 'bad\n')
    (tmp_path/'own.py').write_text("import sys; print(__name__, sys.argv[1:]); sys.exit(3)")
    done = python('-m', 'own', 'a', cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "__main__ ['a']\n")

def test_failure_is_told():
    done = python('-c', '1/0')
    assert done.returncode == 1 and 'ZeroDivisionError' in done.stderr

def test_what_it_starts_is_forked_too():
    look = 'import sys; print("torch" in sys.modules)'
    assert python('-c', f'import subprocess, sys; subprocess.run([sys.executable, "-c", {look!r}])').stdout == 'True\n'
    plain = subprocess.run([sys.executable, '-c', look], capture_output=True, text=True)   # the tests' own is not
    assert plain.stdout == 'False\n'

def wait_until(true):
    for _ in range(500):
        if true(): return
        time.sleep(0.01)
    raise TimeoutError('nothing within five seconds')

def test_signals_reach_it():
    asleep = subprocess.Popen([warm_python(), '-c', 'import time; print(1, flush=True); time.sleep(60)'],
                              stdout=subprocess.PIPE)
    assert asleep.stdout.read(2) == b'1\n'
    asleep.terminate()
    assert asleep.wait(60) == -signal.SIGTERM

def test_it_ends_with_who_asked(tmp_path):
    asked = Fork(time.sleep, 60)
    assert asked.poll() is None and os.getpgid(asked.pid) == asked.pid
    asked.connection.close()
    wait_until(lambda: not psutil.pid_exists(asked.pid))

def test_killed():
    asked = Fork(time.sleep, 60)
    asked.kill()
    assert asked.wait(60) == asked.poll() == -signal.SIGKILL
