/*
 * Finding a command, taking its line apart, and running it.
 *
 * On the graph's loop. A session runs one line at a time, but for what
 * aio_read and aio_write leave in flight.
 */
#include "block/io_command.h"

#include <string.h>

#include "block/backend.h"
#include "block/io_command/io_command_int.h"
#include "util/error.h"

const struct io_command *const io_commands[] = {
    &io_command_aio_flush,  &io_command_aio_read,
    &io_command_aio_write,  &io_command_alloc,
    &io_command_break,      &io_command_discard,
    &io_command_flush,      &io_command_help,
    &io_command_info,       &io_command_length,
    &io_command_map,        &io_command_read,
    &io_command_readv,      &io_command_remove_break,
    &io_command_reopen,     &io_command_resume,
    &io_command_sleep,      &io_command_truncate,
    &io_command_wait_break, &io_command_write,
    &io_command_writev,     NULL,
};

static const struct io_command *find_in(const struct io_command *const *rows,
                                        const char *name)
{
    for (; rows && *rows; rows++) {
        if (!strcmp((*rows)->name, name) ||
            ((*rows)->alias && !strcmp((*rows)->alias, name))) {
            return *rows;
        }
    }
    return NULL;
}

const struct io_command *io_command_find(const struct io_session *s,
                                         const char *name)
{
    const struct io_command *row = find_in(s->more, name);
    return row ? row : find_in(io_commands, name);
}

bool io_usage(struct io_session *s, const struct io_args *args)
{
    const struct io_command *c = args->command;
    fprintf(s->out, "%s%s%s -- %s\n", c->name, *c->usage ? " " : "", c->usage,
            c->what);
    return false;
}

void io_complain(struct io_session *s, const char *format, ...)
{
    va_list args;

    fprintf(s->err, "%s%s", s->program ? s->program : "",
            s->program ? ": " : "");
    va_start(args, format);
    vfprintf(s->err, format, args);
    va_end(args);
    fputc('\n', s->err);
}

bool io_fail(struct io_session *s, GError **error)
{
    io_complain(s, "%s", (*error)->message);
    g_clear_error(error);
    return false;
}

bool io_failed(struct io_session *s, const char *what, int ret)
{
    fprintf(s->out, "%s failed: %s\n", what, g_strerror(-ret));
    return false;
}

bool io_waited(struct io_session *s, const char *what, int ret)
{
    if (ret < 0) {
        return io_failed(s, what, ret);
    }
    io_done_tell(s);
    return true;
}

/* ---- options and counts ---- */

/* Options that stand in word[i]; *i moves on where an argument is a word of its
 * own. */
static bool parse_cluster(struct io_session *s, struct io_args *args,
                          char **word, int n, int *i)
{
    for (const char *c = word[*i] + 1; *c; c++) {
        unsigned char letter = *c;
        const char *row =
            letter == ':' ? NULL : strchr(args->command->options, letter);
        if (!row || letter >= G_N_ELEMENTS(args->given)) {
            fprintf(s->err, "%s: invalid option -- '%c'\n", args->name, letter);
            return io_usage(s, args);
        }
        args->given[letter]++;
        if (row[1] != ':') {
            continue;
        }
        if (c[1]) {
            args->option[letter] = c + 1;
        } else if (*i + 1 < n) {
            args->option[letter] = word[++*i];
        } else {
            fprintf(s->err, "%s: option requires an argument -- '%c'\n",
                    args->name, letter);
            return io_usage(s, args);
        }
        return !args->command->check ||
               args->command->check(s, letter, args->option[letter]);
    }
    return true;
}

/* Options may stand anywhere up to "--"; what is left of word[0..n) moves to
 * its front. */
static bool parse_options(struct io_session *s, struct io_args *args,
                          char **word, int n)
{
    args->word = word;
    args->n = args->command->options ? 0 : n;
    for (int i = 0; args->command->options && i < n; i++) {
        if (!strcmp(word[i], "--")) {
            while (++i < n) {
                word[args->n++] = word[i];
            }
        } else if (word[i][0] != '-' || !word[i][1]) {
            word[args->n++] = word[i];
        } else if (!parse_cluster(s, args, word, n, &i)) {
            return false;
        }
    }
    return true;
}

static bool check_count(struct io_session *s, const struct io_command *c,
                        const char *name, int n)
{
    if (n >= c->min && (c->max < 0 || n <= c->max)) {
        return true;
    }
    fprintf(s->err, "bad argument count %d to %s, expected ", n, name);
    if (c->max < 0) {
        fprintf(s->err, "at least %d arguments\n", c->min);
    } else if (c->min == c->max) {
        fprintf(s->err, "%d arguments\n", c->min);
    } else {
        fprintf(s->err, "between %d and %d arguments\n", c->min, c->max);
    }
    return false;
}

static bool co_permit(struct io_session *s, unsigned perm)
{
    struct backend *b = s->backend;
    g_autoptr(GError) error = NULL;

    if (!perm || !b->root || (b->root->perm & perm) == perm) {
        return true;
    }
    if (b->node->read_only) {
        error_set(&error, "Block node is read-only");
        return io_fail(s, &error);
    }
    return co_backend_set_perm(b, b->root->perm | perm, b->root->shared,
                               &error) ||
           io_fail(s, &error);
}

static bool co_run(struct io_session *s, char **word, int n)
{
    struct io_args args = {.command = io_command_find(s, word[0]),
                           .name = word[0]};

    if (!args.command) {
        fprintf(s->err, "command \"%s\" not found\n", word[0]);
        return false;
    }
    struct node *node = s->backend ? s->backend->node : NULL;
    bool there = node || (args.command->graph_as_is && s->node);

    if (!args.command->no_file && !there) {
        fprintf(s->err, "no file open, try 'help open'\n");
        return false;
    }
    return check_count(s, args.command, word[0], n - 1) &&
           (args.command->no_file || co_permit(s, args.command->perm)) &&
           parse_options(s, &args, word + 1, n - 1) &&
           args.command->co_run(s, &args);
}

struct node *io_node(const struct io_session *s)
{
    return s->backend ? s->backend->node : s->node;
}

bool io_command_leaves_graph(const char *line)
{
    g_auto(GStrv) word = g_strsplit(line, " ", -1);
    char **first = word;

    while (*first && !**first) {
        first++;
    }
    const struct io_command *c = *first ? find_in(io_commands, *first) : NULL;
    return c && c->graph_as_is;
}

bool co_io_command(struct io_session *s, const char *line)
{
    g_auto(GStrv) parts = g_strsplit(line, " ", -1);
    g_autofree char **word = g_new(char *, g_strv_length(parts) + 1);
    int n = 0;

    for (char **p = parts; *p; p++) {
        if (**p) {
            word[n++] = *p;
        }
    }
    return n == 0 || co_run(s, word, n);
}

/* ---- help ---- */

static int by_name(const void *a, const void *b)
{
    const struct io_command *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static void list_commands(struct io_session *s)
{
    g_autoptr(GPtrArray) rows = g_ptr_array_new();

    for (size_t i = 0; io_commands[i]; i++) {
        g_ptr_array_add(rows, (gpointer)io_commands[i]);
    }
    for (size_t i = 0; s->more && s->more[i]; i++) {
        g_ptr_array_add(rows, (gpointer)s->more[i]);
    }
    qsort(rows->pdata, rows->len, sizeof(gpointer), by_name);
    for (guint i = 0; i < rows->len; i++) {
        io_usage(s, &(struct io_args){.command = rows->pdata[i]});
    }
    fprintf(s->out, "\nUse 'help commandname' for extended help.\n");
}

static bool co_help(struct io_session *s, const struct io_args *args)
{
    if (args->n == 0) {
        list_commands(s);
        return true;
    }
    const struct io_command *c = io_command_find(s, args->word[0]);
    if (!c) {
        fprintf(s->out, "command %s not found\n", args->word[0]);
        return false;
    }
    io_usage(s, &(struct io_args){.command = c});
    if (c->help) {
        fprintf(s->out, "\n%s\n", c->help);
    }
    return true;
}

const struct io_command io_command_help = {
    .name = "help",
    .alias = "?",
    .max = 1,
    .usage = "[command]",
    .what = "help for one or all commands",
    .no_file = true,
    .co_run = co_help,
};
