/*
 * Reading a table of options. One getopt_long(3) pass; the value that it
 * returns is the number of the row. Main thread.
 */
#include "tools/common/options.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include "block/objects.h"
#include "qapi/options.h"
#include "tools/common/tool.h"
#include "util/error.h"
#include "util/keyval.h"

enum {
    MAX_ROWS = 63,
    BY_NAME = 256, /* what getopt_long() returns: this plus the row */
};

static bool take_output(const char *text, bool *json)
{
    *json = !strcmp(text, "json");
    if (!*json && strcmp(text, "human")) {
        tool_error("--output must be used with human or json as argument.");
        return false;
    }
    return true;
}

/* *status is 1 already. */
static bool apply(const struct tool_option *row, const char *argument,
                  int *status)
{
    if (row->order) {
        g_ptr_array_add(row->order, (gpointer)row->name);
    }
    if (row->flag) {
        *row->flag = true;
    } else if (row->text) {
        *row->text = argument;
    } else if (row->list) {
        g_ptr_array_add(row->list, (gpointer)argument);
    } else if (row->json) {
        return take_output(argument, row->json);
    } else if (row->size) {
        return tool_parse_size(row->what, argument, row->size);
    } else {
        return row->take(argument, row->opaque, status);
    }
    return true;
}

/* Returns the number of rows. A leading colon makes getopt() tell apart what is
 * unknown and what lacks its argument. */
static int prepare(const struct tool_option *rows, char *letters,
                   struct option *longopts)
{
    int n = 0;

    *letters++ = ':';
    for (; rows[n].letter || rows[n].name; n++) {
        bool argument = !rows[n].flag;

        g_assert(n < MAX_ROWS);
        if (rows[n].letter) {
            *letters++ = rows[n].letter;
            if (argument) {
                *letters++ = ':';
            }
        }
        /* A name that cannot be typed keeps the arrays in step. */
        longopts[n] = (struct option){.name = rows[n].name ? rows[n].name : "=",
                                      .has_arg = argument ? required_argument
                                                          : no_argument,
                                      .val = BY_NAME + n};
    }
    *letters = 0;
    return n;
}

int tool_options(int argc, char **argv, const struct tool_option *rows,
                 int *status)
{
    struct option longopts[MAX_ROWS + 1] = {0};
    char letters[2 * MAX_ROWS + 2];
    int n = prepare(rows, letters, longopts);
    int opt;

    *status = 1;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, letters, longopts, NULL)) != -1) {
        int row = opt - BY_NAME;

        if (opt == ':') {
            tool_usage_error("missing argument for option '%s'",
                             argv[optind - 1]);
            return 0;
        }
        for (int i = 0; opt < BY_NAME && i < n; i++) {
            row = rows[i].letter == opt ? i : row;
        }
        if (row < 0) {
            tool_usage_error("unrecognized option '%s'", argv[optind - 1]);
            return 0;
        }
        if (!apply(&rows[row], optarg, status)) {
            return 0;
        }
    }
    return optind;
}

void tool_options_help(const struct tool_option *rows)
{
    for (; rows->letter || rows->name; rows++) {
        char left[40], letter[8] = "    ";

        if (!rows->help) {
            continue;
        }
        if (rows->letter) {
            g_snprintf(letter, sizeof(letter), "-%c%s", rows->letter,
                       rows->name ? ", " : "");
        }
        g_snprintf(left, sizeof(left), "%s%s%s%s%s", letter,
                   rows->name ? "--" : "", rows->name ? rows->name : "",
                   rows->argument ? " " : "",
                   rows->argument ? rows->argument : "");
        printf("  %-22s %s\n", left, rows->help);
    }
}

GPtrArray *tool_split_image_opts(const char *text, const char *implied_key,
                                 GError **error)
{
    GPtrArray *pairs = keyval_split(text, implied_key, error);

    for (guint i = 0; pairs && i < pairs->len; i++) {
        struct keyval *kv = pairs->pdata[i];
        if (kv->bare) {
            g_autofree char *word = g_strdup(kv->key);
            keyval_negate(kv);
            g_warning("short-form boolean option '%s' deprecated\n"
                      "Please use %s=%s instead",
                      word, kv->key, kv->value);
        }
    }
    return pairs;
}

static void warn_of_event(const char *name)
{
    if (*name && *name != '#' && !strpbrk(name, "*?")) {
        tool_error("warning: trace event '%s' does not exist",
                   name + (*name == '-'));
    }
}

static bool warn_of_file(const char *path)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        tool_error("%s: cannot be read", path);
        return false;
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        warn_of_event(g_strstrip(*line));
    }
    return true;
}

bool tool_take_trace(const char *argument, void *opaque, int *status)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) pairs = keyval_split(argument, "enable", &error);

    if (!pairs) {
        tool_fail(&error);
        return false;
    }
    for (guint i = 0; i < pairs->len; i++) {
        const struct keyval *kv = pairs->pdata[i];

        if (!strcmp(kv->key, "enable") && !strcmp(kv->value, "help")) {
            *status = 0;
            return false;
        }
        if (!strcmp(kv->key, "enable")) {
            warn_of_event(kv->value);
        } else if (!strcmp(kv->key, "events")) {
            if (!warn_of_file(kv->value)) {
                return false;
            }
        } else if (strcmp(kv->key, "file") != 0) {
            tool_error("Invalid parameter '%s'", kv->key);
            return false;
        }
    }
    return true;
}

void tool_list_objects(bool threads)
{
    printf("List of user creatable objects:\n");
    for (unsigned i = 0; i < OBJECT_TYPE__COUNT; i++) {
        if (threads || i != OBJECT_TYPE_IOTHREAD) {
            printf("  %s\n", object_type_str(i));
        }
    }
}

bool tool_add_object(const char *argument, bool threads, GError **error)
{
    qapi_auto(object_options) options = qapi_options_parse(
        &qapi_type_object_options, argument, "qom-type", error);

    if (!options) {
        return false;
    }
    if (!threads && options->qom_type == OBJECT_TYPE_IOTHREAD) {
        return error_set(error, "invalid object type: iothread");
    }
    return object_add(options, error);
}

bool tool_take_object(const char *argument, void *opaque, int *status)
{
    g_autoptr(GError) error = NULL;

    if (!strcmp(argument, "help")) {
        tool_list_objects(false);
        *status = 0;
        return false;
    }
    if (!tool_add_object(argument, false, &error)) {
        tool_fail(&error);
        return false;
    }
    return true;
}
