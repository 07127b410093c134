/*
 * The daemon as a process: background, PID file.
 *
 * It forks before any thread is there. The parent lives until the child says
 * that everything works, so that its exit status means something.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/common/tool.h"
#include "tools/varved/daemon.h"
#include "util/error.h"

static G_GNUC_NORETURN void wait_for_child(int fd)
{
    char status = 1;
    ssize_t n;

    do {
        n = read(fd, &status, 1);
    } while (n < 0 && errno == EINTR);
    _exit(n == 1 ? status : 1);
}

bool daemon_fork(struct daemon *d)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0) {
        tool_error("cannot make a pipe: %s", g_strerror(errno));
        return false;
    }
    pid_t pid = fork();
    if (pid > 0) {
        close(fds[1]);
        wait_for_child(fds[0]);
    }
    close(fds[0]);
    /* Once more, so that no session's leader can get a terminal. */
    if (pid == 0 && setsid() >= 0) {
        pid = fork();
        if (pid > 0) {
            _exit(0);
        }
    }
    if (pid < 0) {
        tool_error("cannot fork: %s", g_strerror(errno));
        close(fds[1]);
        return false;
    }
    umask(027);
    d->parent_pipe = fds[1];
    return true;
}

bool daemon_write_pidfile(struct daemon *d, GError **error)
{
    if (!d->pidfile) {
        return true;
    }
    char *path = g_canonicalize_filename(d->pidfile, NULL);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    if (fd < 0) {
        error_set_errno(error, errno,
                        "cannot create PID file: Could not create '%s'",
                        d->pidfile);
        g_free(path);
        return false;
    }
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    g_autofree char *text = g_strdup_printf("%d\n", (int)getpid());
    size_t length = strlen(text);
    const char *step = "Cannot lock pid file";
    bool ok = fcntl(fd, F_SETLK, &lock) == 0;
    if (ok) {
        step = "Cannot write pid file";
        ok =
            ftruncate(fd, 0) == 0 && write(fd, text, length) == (ssize_t)length;
    }
    if (!ok) {
        error_set_errno(error, errno, "cannot create PID file: %s", step);
        close(fd);
        g_free(path);
        return false;
    }
    d->pidfile_fd = fd; /* keeps the lock */
    d->pidfile_written = path;
    return true;
}

void daemon_remove_pidfile(struct daemon *d)
{
    if (d->pidfile_written) {
        unlink(d->pidfile_written);
        close(d->pidfile_fd);
        g_clear_pointer(&d->pidfile_written, g_free);
    }
}

void daemon_ready(struct daemon *d)
{
    if (d->parent_pipe < 0) {
        return;
    }
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        for (int fd = 0; fd < 3; fd++) {
            dup2(null, fd);
        }
        close(null);
    }
    const char status = 0;
    /* Neither can fail in a way that anybody would care about. */
    if (chdir("/") < 0 || write(d->parent_pipe, &status, 1) < 0) {
        g_debug("leaving the terminal: %s", g_strerror(errno));
    }
    close(d->parent_pipe);
    d->parent_pipe = -1;
}
