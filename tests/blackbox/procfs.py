"""What Linux tells about a process: memory, processor time, open files, state."""
import os
import resource


def _stat_fields(pid):
    with open("/proc/%d/stat" % pid) as f:
        return f.read().rsplit(")", 1)[1].split()


def alive(pid):
    """True while the process runs or is stopped; a zombie is dead."""
    try:
        return _stat_fields(pid)[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def cpu_s(pid):
    """Processor time used so far, user and system, in seconds."""
    fields = _stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status_kib(pid, key):
    with open("/proc/%d/status" % pid) as f:
        for line in f:
            if line.startswith(key + ":"):
                return int(line.split()[1])
    raise AssertionError("no %s for process %d" % (key, pid))


def rss_bytes(pid):
    return _status_kib(pid, "VmRSS") * 1024


def peak_rss_bytes(pid):
    """The highest resident size since the start, or since `forget_peak`."""
    return _status_kib(pid, "VmHWM") * 1024


def forget_peak(pid):
    with open("/proc/%d/clear_refs" % pid, "w") as f:
        f.write("5")


def open_files(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def executable(pid):
    return os.readlink("/proc/%d/exe" % pid)


def processes_with_environment(needle):
    """Pids of running processes whose environment holds these bytes, except this one."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open("/proc/%s/environ" % entry, "rb") as f:
                if needle in f.read() and alive(int(entry)):
                    found.append(int(entry))
        except OSError:
            continue
    return sorted(found)


def raise_open_files(wanted):
    """Raises this process' limit of open files as far as allowed; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        except (ValueError, OSError):
            pass
    target = wanted if hard == resource.RLIM_INFINITY else min(max(wanted, soft), hard)
    if soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
