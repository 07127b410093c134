/*
 * human-monitor-command, for the one line that scripts need of the monitor for
 * people: qemu-io BACKEND "COMMAND"; and help for it.
 *
 * What the line prints is the answer, up to a limit, because "read -v" prints
 * several times what it reads. The command's permissions are the backend's only
 * while it runs, which is on the backend's loop.
 */
#include <stdio.h>
#include <string.h>

#include "block/backend.h"
#include "block/graph.h"
#include "block/io_command.h"
#include "qmp/commands.h"
#include "qmp/visit.h"
#include "util/error.h"

#define ANSWER_BYTES_MAX ((size_t)1 << 20)

/* ---- a stream into memory ---- */

static ssize_t answer_write(void *cookie, const char *data, size_t bytes)
{
    GString *answer = cookie;
    size_t room = ANSWER_BYTES_MAX - answer->len;

    g_string_append_len(answer, data, (gssize)MIN(bytes, room));
    return (ssize_t)bytes;
}

static FILE *answer_open(GString *answer)
{
    FILE *file = fopencookie(answer, "w",
                             (cookie_io_functions_t){.write = answer_write});

    g_assert(file);
    return file;
}

/* ---- qemu-io ---- */

static struct backend *find_device(const char *id, GError **error)
{
    struct backend *b;

    TAILQ_FOREACH (b, &graph_current()->backends, link) {
        if (b->device_id && !strcmp(b->device_id, id)) {
            return backend_ref(b);
        }
    }
    error_set(error, "Device '%s' not found", id);
    return NULL;
}

/* A reference to the backend of that name, or to one of our own on the node. */
static struct backend *co_find(const char *name, bool is_device, GError **error)
{
    if (is_device) {
        return find_device(name, error);
    }
    struct backend *b = backend_find(name, NULL);
    if (b) {
        return backend_ref(b);
    }
    struct node *node = node_lookup(NULL, name, error);
    return node ? co_backend_new(NULL, node, 0, PERM_ALL, error) : NULL;
}

static void co_run_io(struct backend *b, const char *line, FILE *out)
{
    unsigned perm = b->root ? b->root->perm : 0;
    unsigned shared = b->root ? b->root->shared : 0;
    struct io_session session = {
        .backend = b,
        .out = out,
        .err = out,
        .kept_perm = perm,
    };
    g_autoptr(GError) error = NULL;

    if (b->root &&
        !co_backend_set_perm(b, perm | PERM_CONSISTENT_READ, shared, &error)) {
        io_fail(&session, &error);
        return;
    }
    co_io_command(&session, line);
    co_io_session_drain(&session);
    if (b->root) {
        /* Giving back what was taken cannot fail, but a reopen may have made
         * the node such that a device's right to write does not come back. */
        (void)co_backend_set_perm(b, session.kept_perm, shared, NULL);
    }
}

struct io_line {
    const char *device; /* as typed */
    bool is_device;     /* -d: its id, no backend's or node's name */
    const char *command;
    FILE *out;
};

static bool co_qemu_io(const void *args, void *result, GError **error)
{
    const struct io_line *line = args;
    struct backend *b = co_find(line->device, line->is_device, error);

    if (!b) {
        return false;
    }
    co_run_io(b, line->command, line->out);
    co_backend_unref(b);
    return true;
}

/* Beside commands that change the graph, for these may wait for a request that
 * only such a line lets go on. */
static bool co_qemu_io_as_is(const void *args, void *result, GError **error)
{
    const struct io_line *line = args;
    struct backend *b = line->is_device ? find_device(line->device, error)
                                        : backend_find(line->device, NULL);
    struct io_session session = {.out = line->out, .err = line->out};

    if (!b && line->is_device) {
        return false;
    }
    session.node = b ? b->node : node_lookup(NULL, line->device, error);
    if (b && line->is_device) {
        co_backend_unref(b); /* the device holds it */
    }
    if (!b && !session.node) {
        return false;
    }
    co_io_command(&session, line->command);
    return true;
}

/* ---- the monitor ---- */

/* The next word of a line, which moves on behind it; what is in quotes is one,
 * and may have escapes. NULL if there is none, or if it does not end. */
static char *take_word(const char **line)
{
    static const char escapes[] = "nr\\'\"", meant[] = "\n\r\\'\"";
    g_autoptr(GString) word = g_string_new(NULL);
    const char *s = *line + strspn(*line, " \t\n\r\v\f");
    bool quoted = *s == '"';

    for (s += quoted; *s && (quoted ? *s != '"' : !g_ascii_isspace(*s)); s++) {
        const char *escape =
            quoted && *s == '\\' && s[1] ? strchr(escapes, s[1]) : NULL;

        if (quoted && *s == '\\' && !escape) {
            return NULL;
        }
        g_string_append_c(word, escape ? meant[escape - escapes] : *s);
        s += escape ? 1 : 0;
    }
    if (quoted ? *s != '"' : !word->len) {
        return NULL;
    }
    *line = s + quoted;
    return g_string_free(g_steal_pointer(&word), FALSE);
}

static bool co_do_qemu_io(const struct io_line *line, GError **error)
{
    const struct place place = {
        .device = line->device,
        .node = line->is_device ? NULL : line->device,
    };

    return io_command_leaves_graph(line->command)
               ? co_visit(&place, co_qemu_io_as_is, line, NULL, error)
               : co_visit_change(&place, co_qemu_io, line, NULL, error);
}

static const char qemu_io_help[] =
    "qemu-io [-d] [device] \"[command]\" -- a single request, as varve-io does "
    "it\r\n"
    "\t\t\t-d: [device] is a device's id, not the name of a drive or node\r\n";

/* The words behind "qemu-io". */
static void co_qemu_io_line(const char *text, FILE *out)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *device = NULL, *command = NULL;
    struct io_line line = {.out = out};

    text += strspn(text, " \t");
    if (*text == '-' && text[1] != 'd') {
        fprintf(out, "qemu-io: unsupported option -%c\r\n", text[1]);
    } else {
        line.is_device = *text == '-';
        text += line.is_device ? 2 : 0;
        device = take_word(&text);
        command = device ? take_word(&text) : NULL;
        text += strspn(text, " \t\n\r\v\f");
        if (command && !*text) {
            line.device = device;
            line.command = command;
            if (!co_do_qemu_io(&line, &why)) {
                fprintf(out, "Error: %s\r\n", why->message);
            }
            return;
        }
        fprintf(out, "qemu-io: %s\r\n",
                command  ? "extraneous characters at the end of line"
                : device ? "string expected"
                         : "block device name expected");
    }
    fprintf(out, "Try \"help qemu-io\" for more information\r\n");
}

static void co_line(const char *text, FILE *out)
{
    g_autofree char *name = take_word(&text);

    if (!name) {
        return;
    }
    if (!strcmp(name, "qemu-io")) {
        co_qemu_io_line(text, out);
    } else if (!strcmp(name, "help")) {
        fputs(qemu_io_help, out);
    } else {
        fprintf(out, "unknown command: '%s'\r\n", name);
    }
}

char *qmp_human_monitor_command(const struct human_monitor_command_args *args,
                                GError **errp)
{
    g_autoptr(GString) answer = g_string_new(NULL);
    FILE *out = answer_open(answer);

    co_line(args->command_line, out);
    fclose(out);
    return g_utf8_make_valid(answer->str, (gssize)answer->len);
}
