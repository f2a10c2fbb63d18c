"""A process that has imported avcomp and forks itself for whoever asks: see warm.py.

Who asks connects to a socket, is told the number of a new process, and sends what it is to do with three open files.
When the process ends, its exit code comes back; when who asked is gone, the process is killed. What
the socket says: numbers of 4 bytes, before a message its length. `python warm_server.py N` serves at the open socket of
that number until its input is closed."""
import atexit, gc, os, pickle, runpy, select, signal, socket, sys, threading, traceback, types
from contextlib import suppress

SIZE = 4

def number(n): return n.to_bytes(SIZE, 'big', signed=True)

def receive(connection, size):
    "So many bytes."
    found = b''
    while len(found) < size:
        found += (part := connection.recv(size - len(found)))
        if not part: raise EOFError('who asked is gone')
    return found

def ask(path, request, files):
    "A new process that does `request`: a function with its arguments, an environment, a folder, and `sys.path`."
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    pid = int.from_bytes(receive(connection, SIZE), 'big')
    message = pickle.dumps(request)
    socket.send_fds(connection, [number(len(message))], files)
    connection.sendall(message)
    return pid, connection

def serve(door):
    "Fork for all who connect. Returns in forked processes alone: the connection of each."
    children, (ended, end) = {}, os.pipe()   # pid -> connection, None when who asked is gone
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # an interrupt is for who asks, and closes the input
    poll = select.poll()
    for fd in (0, ended, door): poll.register(fd, select.POLLIN)
    while True:
        waiting = {c.fileno(): pid for pid, c in children.items() if c}
        ready = {fd for fd, _ in poll.poll()}
        if 0 in ready:
            for pid in waiting.values(): kill(pid, children)
            os._exit(0)
        for fd in ready & waiting.keys():   # its other end is closed
            poll.unregister(fd)
            kill(waiting[fd], children)
        if ended in ready: os.read(ended, 4096)
        for pid in [*children]: reap(pid, children, poll)
        if door.fileno() not in ready: continue
        connection, _ = door.accept()
        if pid := os.fork():
            children[pid] = connection
            poll.register(connection, 0)
        else:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for c in (door, *filter(None, children.values())): c.close()
            for fd in (ended, end): os.close(fd)
            os.setsid()
            tell(connection, os.getpid())   # by now it has a group of its own, as who signals groups expects
            return connection

def tell(connection, n):
    with suppress(OSError): connection.sendall(number(n))   # who asked may be gone

def kill(pid, children):
    "A process for which nobody waits any more."
    if children[pid]: children[pid].close()
    children[pid] = None
    os.kill(pid, signal.SIGKILL)

def reap(pid, children, poll):
    "Tell the exit code of a process that has ended: below zero the signal that killed it."
    found, status = os.waitpid(pid, os.WNOHANG)
    if not found: return
    if connection := children.pop(pid):
        poll.unregister(connection)
        tell(connection, os.waitstatus_to_exitcode(status))
        connection.close()

def begin(connection):
    "In a forked process: what is to be done, with its files, environment and folder."
    size, files, *_ = socket.recv_fds(connection, SIZE, 3)
    call, args, env, cwd, path = pickle.loads(receive(connection, int.from_bytes(size, 'big')))
    connection.close()
    for i, fd in enumerate(files): os.dup2(fd, i)
    for fd in files: os.close(fd)
    sys.stdin, (sys.stdout, sys.stderr) = open(0, closefd=False), (open(n, 'w', 1, closefd=False) for n in (1, 2))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if path: sys.path[:] = path
    return call, args

def interpret(executable, argv):
    "What `python argv` does; processes that it starts as `sys.executable` are started by `executable`."
    if executable: sys.executable = executable
    option, what, *rest = [a for a in argv[:1] if a != '-u'] + [*argv[1:]]
    sys.argv = [option if option == '-c' else what, *rest]
    sys.path[:0] = [os.getcwd(), *filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))]
    if option == '-m': runpy.run_module(what, run_name='__main__', alter_sys=True)
    elif option == '-c':
        main = sys.modules['__main__'] = types.ModuleType('__main__')
        exec(compile(what, '<string>', 'exec'), vars(main))
    else: raise ValueError(f'expected -m or -c, got {option}')

def exit_code(call, args):
    "Of an interpreter that did this."
    try:
        call(*args)
        return 0
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int): return e.code or 0
        print(e.code, file=sys.stderr)
    except BaseException: traceback.print_exc()
    return 1

def main(door):
    import warm_imports   # noqa: F401
    gc.collect()
    gc.freeze()           # what is there is not looked through by each process anew
    connection = serve(door)
    code = exit_code(*begin(connection))
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr): stream.flush()
    os._exit(code)

if __name__ == '__main__': main(socket.socket(fileno=int(sys.argv[1])))
