/*
 * Rules of blkdebug in a file, as QEMU has them:
 *
 *     [inject-error]
 *     event = "read_aio"   # a comment
 *     errno = "28"
 *
 *     [set-state]
 *     event = "write_aio"
 *     new_state = "2"
 *
 * A section is a rule, with the members of its option as keys, and may have a
 * name: [inject-error "first"]. Members are set through the tables of the
 * schema. A line that is none of these is refused by its number.
 */
#include "block/drivers/blkdebug_config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "aio/file_io.h"
#include "util/error.h"

#define MAX_BYTES (1 << 20)

/* The section that is being read. */
struct section {
    const struct qapi_type *type; /* NULL: there is none yet */
    void *rule;                   /* of that type, owned by the list */
    bool has_event;
};

void blkdebug_rules_clear(struct blkdebug_rules *rules)
{
    qapi_clear(&qapi_type_blkdebug_inject_error_options_list, &rules->errors);
    qapi_clear(&qapi_type_blkdebug_set_state_options_list, &rules->states);
}

/* ---- sections ---- */

static bool end_section(const struct section *s, GError **error)
{
    return !s->type || s->has_event ||
           error_set(error, "Missing event name for rule");
}

static bool begin_section(struct section *s, const char *name,
                          struct blkdebug_rules *rules, GError **error)
{
    if (!end_section(s, error)) {
        return false;
    }
    *s = (struct section){0};
    if (!strcmp(name, "inject-error")) {
        s->type = &qapi_type_blkdebug_inject_error_options;
        s->rule = g_new0(struct blkdebug_inject_error_options, 1);
        qapi_list_append(&rules->errors, s->rule);
    } else if (!strcmp(name, "set-state")) {
        s->type = &qapi_type_blkdebug_set_state_options;
        s->rule = g_new0(struct blkdebug_set_state_options, 1);
        qapi_list_append(&rules->states, s->rule);
    } else {
        return error_set(error, "There is no option group '%s'", name);
    }
    return true;
}

/* ---- members ---- */

static bool read_number(const char *key, const char *text, void *slot,
                        GError **error)
{
    char *end;

    errno = 0;
    *(int64_t *)slot = g_ascii_strtoll(text, &end, 0);
    return (*text && !*end && !errno) ||
           error_set(error, "Parameter '%s' expects a number", key);
}

static bool read_switch(const char *key, const char *text, void *slot,
                        GError **error)
{
    *(bool *)slot = !strcmp(text, "on");
    return *(bool *)slot || !strcmp(text, "off") ||
           error_set(error, "Parameter '%s' expects 'on' or 'off'", key);
}

static bool read_word(const struct qapi_type *type, const char *text,
                      void *slot, GError **error)
{
    int value = qapi_enum_parse(type, text);

    if (value < 0) {
        return error_set(error, "invalid parameter value: %s", text);
    }
    *(int *)slot = value;
    return true;
}

static bool set_member(struct section *s, const char *key, const char *text,
                       GError **error)
{
    const struct qapi_member *m = NULL;
    char *base = s->rule;

    for (uint32_t i = 0; i < s->type->n; i++) {
        m = strcmp(s->type->members[i].name, key) ? m : &s->type->members[i];
    }
    if (!m) {
        return error_set(error, "Invalid parameter '%s'", key);
    }
    if (m->has_flag) {
        *(bool *)(base + m->has_offset) = true;
    }
    s->has_event |= !strcmp(key, "event");
    switch (m->type->meta) {
    case QAPI_META_INT:
        return read_number(key, text, base + m->offset, error);
    case QAPI_META_BOOL:
        return read_switch(key, text, base + m->offset, error);
    default:
        return read_word(m->type, text, base + m->offset, error);
    }
}

/* ---- lines ---- */

/* Cuts [name] or [name "id"] down to the name. */
static bool split_heading(char *line)
{
    size_t n = strcspn(line, "\"]");
    char *rest = line + n;

    if (*rest == '"') {
        rest += 1 + strcspn(rest + 1, "\"");
        rest += *rest != 0;
    }
    bool ok = *rest == ']' && !*g_strchug(rest + 1);
    line[n] = 0;
    g_strchomp(line);
    return ok;
}

/* Cuts key = "value", which a comment may follow, into both; NULL if it is
 * none.
 */
static char *split_member(char *line)
{
    char *value = strchr(line, '=');

    if (!value) {
        return NULL;
    }
    *value++ = 0;
    g_strchomp(line);
    g_strstrip(value);
    char *end = *value == '"' ? strchr(value + 1, '"') : NULL;
    if (!end) {
        return NULL;
    }
    *end++ = 0;
    g_strchug(end);
    if (*end && *end != '#') {
        return NULL;
    }
    return value + 1;
}

static bool read_line(struct section *s, char *line, unsigned number,
                      struct blkdebug_rules *rules, GError **error)
{
    g_strstrip(line);
    if (!*line || *line == '#') {
        return true;
    }
    if (*line == '[') {
        return split_heading(line + 1)
                   ? begin_section(s, line + 1, rules, error)
                   : error_set(error, "line %u: a heading [NAME] is expected",
                               number);
    }
    if (!s->type) {
        return error_set(error, "no group defined");
    }
    char *value = split_member(line);
    return value ? set_member(s, line, value, error)
                 : error_set(error, "line %u: KEY = \"VALUE\" is expected",
                             number);
}

bool blkdebug_config_parse(const char *text, struct blkdebug_rules *rules,
                           GError **error)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    struct section s = {0};

    for (unsigned i = 0; lines[i]; i++) {
        if (!read_line(&s, lines[i], i + 1, rules, error)) {
            return false;
        }
    }
    return end_section(&s, error);
}

/* ---- the file ---- */

struct reading {
    const char *path;
    char *text;
};

/* On a worker. */
static int read_file(void *opaque)
{
    struct reading *r = opaque;
    int fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (fd < 0) {
        return -errno;
    }
    int ret = fstat(fd, &st) < 0       ? -errno
              : S_ISDIR(st.st_mode)    ? -EISDIR
              : !S_ISREG(st.st_mode)   ? -EINVAL
              : st.st_size > MAX_BYTES ? -EFBIG
                                       : 0;
    if (ret == 0) {
        r->text = g_malloc0((gsize)st.st_size + 1);
        if (read(fd, r->text, (size_t)st.st_size) < 0) {
            ret = -errno;
        }
    }
    close(fd);
    return ret;
}

bool co_blkdebug_config_read(const char *path, struct blkdebug_rules *rules,
                             GError **error)
{
    struct reading r = {.path = path};
    int ret = co_worker(read_file, &r);
    bool ok = ret < 0
                  ? error_set(error, "Could not read blkdebug config file: %s",
                              g_strerror(-ret))
                  : blkdebug_config_parse(r.text, rules, error);

    g_free(r.text);
    return ok;
}
