/*
 * The options that new images take, by format: for "-o help", for telling what
 * was mistyped before anything is opened, and for the line that says with which
 * options an image is made. What they do is the drivers' business.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "util/error.h"
#include "util/keyval.h"

enum value_type { TEXT, BOOL, SIZE, NUMBER };

static const char *const type_names[] = {
    [TEXT] = "<str>",
    [BOOL] = "<bool (on/off)>",
    [SIZE] = "<size>",
    [NUMBER] = "<num>",
};

/* In the order in which qemu-img prints them about a new image. */
struct create_option {
    const char *name;
    enum value_type type;
    bool of_file; /* of what the image lies in */
    bool amendable;
    const char *value; /* if nothing is said; NULL: shown only when given */
    const char *help;  /* NULL: known, but not to be had */
};

static const struct create_option qcow2_options[] = {
    {"encryption", BOOL, false, false, NULL, NULL},
    {"encrypt.format", TEXT, false, false, NULL, NULL},
    {"cluster_size", SIZE, false, false, "65536", "qcow2 cluster size"},
    {"extended_l2", BOOL, false, false, "off", "Extended L2 tables"},
    {"preallocation", TEXT, false, false, NULL,
     "Preallocation mode (allowed values: off, metadata, falloc, full)"},
    {"compression_type", TEXT, false, false, "zlib",
     "Compression method used for image cluster compression"},
    {"size", SIZE, false, true, NULL, "Virtual disk size"},
    {"compat", TEXT, false, true, NULL,
     "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"backing_file", TEXT, false, true, NULL, "File name of a base image"},
    {"backing_fmt", TEXT, false, true, NULL, "Image format of the base image"},
    {"data_file", TEXT, false, true, NULL,
     "File name of an external data file"},
    {"data_file_raw", BOOL, false, true, NULL,
     "The external data file must stay valid as a raw image"},
    {"lazy_refcounts", BOOL, false, true, "off", "Postpone refcount updates"},
    {"refcount_bits", NUMBER, false, true, "16",
     "Width of a reference count entry in bits"},
    {"nocow", BOOL, true, false, NULL,
     "Turn off copy-on-write (valid only on btrfs)"},
    {"extent_size_hint", SIZE, true, false, NULL,
     "Extent size hint for the image file, 0 to disable"},
};

static const struct create_option raw_options[] = {
    {"size", SIZE, false, false, NULL, "Virtual disk size"},
    {"preallocation", TEXT, true, false, NULL,
     "Preallocation mode (allowed values: off, falloc, full)"},
    {"nocow", BOOL, true, false, NULL,
     "Turn off copy-on-write (valid only on btrfs)"},
    {"extent_size_hint", SIZE, true, false, NULL,
     "Extent size hint for the image file, 0 to disable"},
};

static const struct {
    const char *format;
    const struct create_option *options;
    size_t n;
} formats[] = {
    {"qcow2", qcow2_options, G_N_ELEMENTS(qcow2_options)},
    {"raw", raw_options, G_N_ELEMENTS(raw_options)},
    {"file", raw_options, G_N_ELEMENTS(raw_options)},
};

static const struct create_option *options_of(const char *format, size_t *n)
{
    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (!strcmp(format, formats[i].format)) {
            *n = formats[i].n;
            return formats[i].options;
        }
    }
    *n = 0;
    return NULL;
}

bool img_has_create_options(const char *format)
{
    size_t n;

    return options_of(format, &n);
}

/* ---- help ---------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct create_option *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

/* By name, those for which one of the rules holds. */
static void print_options(const struct create_option *o, size_t n,
                          bool amendable, bool of_file)
{
    const struct create_option *sorted[G_N_ELEMENTS(qcow2_options)] = {0};
    size_t shown = 0;

    for (size_t i = 0; i < n; i++) {
        bool wanted = amendable ? o[i].amendable : of_file || !o[i].of_file;
        if (o[i].help && wanted) {
            sorted[shown++] = &o[i];
        }
    }
    qsort(sorted, shown, sizeof(*sorted), by_name);
    for (size_t i = 0; i < shown; i++) {
        g_autofree char *name = g_strconcat(sorted[i]->name, "=",
                                            type_names[sorted[i]->type], NULL);
        printf("  %-22s - %s\n", name, sorted[i]->help);
    }
}

int img_print_create_options(const char *format, bool with_file)
{
    size_t n;
    const struct create_option *o = options_of(format, &n);

    if (!o) {
        tool_error("Unknown file format '%s'", format);
        return 1;
    }
    if (with_file) {
        printf("Supported options:\n");
    } else {
        printf("Supported %s options:\n", format);
    }
    print_options(o, n, false, with_file);
    if (!with_file) {
        printf("\nThe protocol level may support further options.\n"
               "Specify the target filename to include those options.\n");
    }
    return 0;
}

int img_print_amend_options(const char *format)
{
    size_t n;
    const struct create_option *o = options_of(format, &n);

    printf("Amend options for '%s':\n", format);
    print_options(o, n, true, false);
    return 0;
}

/* The list with a value for every key. */
static char *spell_out(const GPtrArray *pairs)
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < pairs->len; i++) {
        struct keyval *kv = g_ptr_array_index(pairs, i);
        keyval_negate(kv);
        g_autofree char *quoted = keyval_quote(kv->value);
        g_string_append_printf(text, "%s%s=%s", i ? "," : "", kv->key, quoted);
    }
    return g_string_free(text, FALSE);
}

bool img_take_create_options(const char *argument, void *strings, int *status)
{
    size_t n = strlen(argument);
    g_autoptr(GPtrArray) pairs = keyval_split(argument, NULL, NULL);

    /* Lists are joined by a comma, so a loose one would change its meaning. */
    if (!n || argument[0] == ',' || argument[n - 1] == ',') {
        tool_error("Invalid option list: %s", argument);
        return false;
    }
    g_ptr_array_add(strings, pairs ? spell_out(pairs) : g_strdup(argument));
    return true;
}

bool img_is_help(const GPtrArray *texts)
{
    for (unsigned i = 0; i < texts->len; i++) {
        g_autoptr(GPtrArray) list = keyval_split(texts->pdata[i], NULL, NULL);

        for (unsigned k = 0; list && k < list->len; k++) {
            const struct keyval *kv = list->pdata[k];
            if (!strcmp(kv->key, "help") || !strcmp(kv->key, "?")) {
                return true;
            }
        }
    }
    return false;
}

char *img_join_options(GPtrArray *texts)
{
    g_ptr_array_add(texts, NULL);
    char *joined = g_strjoinv(",", (char **)texts->pdata);
    g_ptr_array_set_size(texts, (int)texts->len - 1);
    return joined;
}

/* ---- checking ------------------------------------------------------------ */

static bool check_value(const struct keyval *kv, enum value_type type,
                        GError **error)
{
    uint64_t number;
    bool on;

    switch (type) {
    case BOOL:
        return keyval_take_bool(kv, &on, error);
    case SIZE:
        return keyval_parse_size(kv->key, kv->value, &number, error);
    case NUMBER:
        return keyval_take_number(kv, &number, error);
    case TEXT:
        break;
    }
    return true;
}

bool img_check_create_options(const char *format, const char *text,
                              GError **error)
{
    size_t n;
    const struct create_option *o = options_of(format, &n);
    g_autoptr(GPtrArray) list = keyval_split(text, NULL, error);

    for (unsigned i = 0; list && i < list->len; i++) {
        const struct keyval *kv = g_ptr_array_index(list, i);
        size_t k = 0;
        while (k < n && strcmp(o[k].name, kv->key)) {
            k++;
        }
        if (k == n) {
            return error_set(error, "Invalid parameter '%s'", kv->key);
        }
        if (!check_value(kv, o[k].type, error)) {
            return false;
        }
    }
    return list;
}

char *img_create_option(const char *text, const char *name)
{
    g_autoptr(GPtrArray) list = text ? keyval_split(text, NULL, NULL) : NULL;

    for (unsigned i = list ? list->len : 0; i-- > 0;) {
        struct keyval *kv = g_ptr_array_index(list, i);
        if (!strcmp(kv->key, name)) {
            return g_strdup(kv->value);
        }
    }
    return NULL;
}

/* ---- what was made ------------------------------------------------------- */

/* As qemu-img prints it: sizes in bytes. */
static char *typed_value(const char *extra, const struct create_option *o)
{
    char *value = img_create_option(extra, o->name);
    uint64_t bytes;

    if (value && o->type == SIZE && keyval_size(value, &bytes) == 0) {
        g_free(value);
        return g_strdup_printf("%" PRIu64, bytes);
    }
    return value;
}

char *img_create_summary(const char *format, const struct create_params *params)
{
    size_t n;
    const struct create_option *o = options_of(format, &n);
    GString *s = g_string_new(NULL);

    g_string_printf(s, "fmt=%s", format);
    for (size_t i = 0; i < n; i++) {
        g_autofree char *given = typed_value(params->extra, &o[i]);
        const char *value = given ? given : o[i].value;

        if (!strcmp(o[i].name, "size")) {
            g_string_append_printf(s, " size=%" PRId64, params->size);
            continue;
        }
        if (!strcmp(o[i].name, "backing_file")) {
            value = params->backing_file;
        } else if (!strcmp(o[i].name, "backing_fmt")) {
            value = params->backing_format;
        }
        if (value) {
            g_autofree char *quoted = keyval_quote(value);
            g_string_append_printf(s, " %s=%s", o[i].name, quoted);
        }
    }
    return g_string_free(s, FALSE);
}
