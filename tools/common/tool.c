/*
 * What the command-line programs share. Runs on the main thread.
 */
#include "tools/common/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "aio/loop.h"
#include "block/graph.h"
#include "util/error.h"
#include "util/keyval.h"

#define HEAP_KEEPS (64 << 20)

/* Messages as they are, warnings as the tools' users know them; everything else
 * is for who looks for mistakes of ours. */
static GLogWriterOutput write_log(GLogLevelFlags level, const GLogField *fields,
                                  gsize n, gpointer opaque)
{
    const char *warning = level & G_LOG_LEVEL_WARNING ? ": warning: " : "";
    const char *message = NULL;

    for (gsize i = 0; i < n; i++) {
        if (!strcmp(fields[i].key, "MESSAGE")) {
            message = fields[i].value;
        }
    }
    if (!message || !(level & (G_LOG_LEVEL_WARNING | G_LOG_LEVEL_MESSAGE))) {
        return g_log_writer_default(level, fields, n, opaque);
    }
    fprintf(stderr, "%s%s%s\n", *warning ? g_get_prgname() : "", warning,
            message);
    return G_LOG_WRITER_HANDLED;
}

/* What was printed into a full disk is no answer, whatever the status says. */
static void finish_output(void)
{
    if (fflush(stdout) || ferror(stdout)) {
        tool_error("standard output: %s", g_strerror(errno));
        _exit(1);
    }
}

/* Or the first image would be standard output, and what is printed be in it. */
static void fill_standard_files(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) {
        close(fd);
    }
}

void tool_init(const char *argv0)
{
    g_autofree char *base = g_path_get_basename(argv0);

    fill_standard_files();
    g_set_prgname(base);
    g_log_set_writer_func(write_log, NULL, NULL);
    atexit(finish_output);
    /* Programs that copy take and free large buffers all the time: keep them in
     * the heap, where their pages stay, instead of mapping them anew. */
    mallopt(M_MMAP_THRESHOLD, HEAP_KEEPS);
    mallopt(M_TRIM_THRESHOLD, HEAP_KEEPS);
}

static void print_error(const char *fmt, va_list ap) G_GNUC_PRINTF(1, 0);
static void print_error(const char *fmt, va_list ap)
{
    fprintf(stderr, "%s: ", g_get_prgname());
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
}

void tool_error(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    print_error(fmt, ap);
    va_end(ap);
}

int tool_usage_error(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    print_error(fmt, ap);
    va_end(ap);
    fprintf(stderr, "Try '%s --help' for more information\n", g_get_prgname());
    return 1;
}

int tool_fail(GError **error)
{
    tool_error("%s", (*error)->message);
    g_clear_error(error);
    return 1;
}

int tool_fail_at(const char *prefix, GError **error)
{
    tool_error("%s: %s", prefix, (*error)->message);
    g_clear_error(error);
    return 1;
}

struct run {
    int (*co_body)(void *opaque);
    void *opaque;
    int status;
};

static void co_run(void *opaque)
{
    struct run *r = opaque;

    r->status = r->co_body(r->opaque);
    if (r->status == 0 && graph_current()->lost) {
        r->status = 1;
    }
}

int tool_run(int (*co_body)(void *opaque), void *opaque)
{
    struct loop *loop = loop_new("main", LOOP_CLOCK_REAL);
    struct run r = {.co_body = co_body, .opaque = opaque};

    loop_run_co(loop, co_run, &r);
    loop_free(loop);
    return r.status;
}

bool tool_parse_size(const char *what, const char *text, int64_t *bytes)
{
    uint64_t value;
    int ret = keyval_size(text, &value);

    if (ret == -ERANGE || (ret == 0 && value > INT64_MAX)) {
        tool_error("Invalid %s specified. Must be between 0 and %" PRId64 ".",
                   what, INT64_MAX);
        return false;
    }
    if (ret < 0) {
        tool_error("Invalid %s specified. You may use k, M, G, T, P or E "
                   "suffixes for",
                   what);
        tool_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and "
                   "exabytes.");
        return false;
    }
    *bytes = value;
    return true;
}

void tool_print_json(struct json_object *tree)
{
    printf("%s\n", json_object_to_json_string_ext(
                       tree, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                 JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(tree);
}

char *tool_size_text(int64_t bytes)
{
    static const char *const units[] = {"B",   "KiB", "MiB", "GiB",
                                        "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    double value = bytes;

    while (value >= 1000 && unit + 1 < G_N_ELEMENTS(units)) {
        value /= 1024;
        unit++;
    }
    return g_strdup_printf("%.3g %s", value, units[unit]);
}

static volatile sig_atomic_t progress_asked;

static void on_sigusr1(int signal)
{
    progress_asked = 1;
}

static void progress_line(FILE *out, int hundredths, char end)
{
    fprintf(out, "    (%d.%02d/100%%)%c", hundredths / 100, hundredths % 100,
            end);
    fflush(out);
}

void progress_start(struct progress *p, bool enabled)
{
    p->enabled = enabled;
    p->last = -1;
    if (!enabled) {
        signal(SIGUSR1, on_sigusr1);
    }
    progress_update(p, 0, 1);
}

void progress_update(struct progress *p, int64_t done, int64_t total)
{
    if (!p->enabled && !progress_asked) {
        return;
    }
    int now = total > 0 ? (int)(10000.0 * done / total) : 10000;

    if (progress_asked) {
        progress_asked = 0;
        progress_line(stderr, now, '\n');
    } else if (now != p->last) {
        p->last = now;
        progress_line(stdout, now, '\r');
    }
}

void progress_end(struct progress *p, bool ok)
{
    if (p->enabled && ok) {
        progress_update(p, 1, 1);
    }
    if (p->enabled) {
        printf("\n");
    }
}
