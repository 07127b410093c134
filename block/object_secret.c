/*
 * Secrets by name: what a password or a key is, or in which file it stands.
 *
 * Nothing here opens encrypted images; that a secret can be read, and that its
 * text is what its format says, is still found out when it is made, and options
 * that name it are refused where they are used. A secret that is itself
 * encrypted is refused. Main thread only.
 */
#include "block/object_int.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "util/error.h"

/* No password is longer; a device would never end. */
#define SECRET_MAX (1 << 20)

static char *read_all(int fd, const char *name, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    char piece[4096];
    ssize_t n;

    while ((n = read(fd, piece, sizeof(piece))) != 0) {
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            error_set(error, "Error reading file \u201C%s\u201D: %s", name,
                      g_strerror(errno));
            return NULL;
        }
        g_string_append_len(text, piece, n);
        if (text->len > SECRET_MAX) {
            error_set(error, "it is longer than %d bytes", SECRET_MAX);
            return NULL;
        }
    }
    /* What follows a zero byte is no text. */
    return g_strndup(text->str, text->len);
}

static char *read_file(const char *name, GError **error)
{
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    char *text = NULL;

    if (fd < 0) {
        error_set(error, "Failed to open file \u201C%s\u201D: %s", name,
                  g_strerror(errno));
    } else {
        text = read_all(fd, name, error);
        close(fd);
    }
    if (!text) {
        g_prefix_error(error, "Unable to read %s: ", name);
    }
    return text;
}

static bool check_text(const char *text, enum q_crypto_secret_format format,
                       GError **error)
{
    static const char base64[] =
        G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "+/=\n";

    return format != Q_CRYPTO_SECRET_FORMAT_BASE64 ||
           strspn(text, base64) == strlen(text) ||
           error_set(error, "Base64 data contains invalid characters");
}

static bool check(const struct secret_properties *p, GError **error)
{
    g_autofree char *text = NULL;

    if (p->data && p->file) {
        return error_set(error, "'file' and 'data' are mutually exclusive");
    }
    if (!p->data && !p->file) {
        return error_set(error, "Either 'file' or 'data' must be provided");
    }
    if (p->keyid) {
        return error_set(error, "Parameter 'keyid' is not supported: secrets "
                                "that are encrypted cannot be read");
    }
    text = p->file ? read_file(p->file, error) : g_strdup(p->data);
    return text && check_text(text, p->has_format ? p->format : 0, error);
}

static bool refuse_loaded(const struct secret_properties *p, GError **error)
{
    return !p->has_loaded ||
           error_set(error, "Property 'secret.loaded' is not writable");
}

static void *secret_make(const struct object_options *options, GError **error)
{
    const struct secret_properties *p = &options->u.secret;

    return refuse_loaded(p, error) && check(p, error)
               ? qapi_clone(&qapi_type_secret_properties, p)
               : NULL;
}

static bool co_secret_let_go(void *state)
{
    return true; /* it has been read */
}

static void secret_end(void *state)
{
    qapi_free(&qapi_type_secret_properties, state);
}

static void put_default(char **text)
{
    if (!*text) {
        *text = g_strdup("");
    }
}

static void *secret_get(const void *state)
{
    struct secret_properties *p =
        qapi_clone(&qapi_type_secret_properties, state);

    p->has_loaded = p->loaded = true;
    p->has_format = true;
    put_default(&p->data);
    put_default(&p->file);
    put_default(&p->keyid);
    put_default(&p->iv);
    return p;
}

static void take_text(char **to, const char *from)
{
    if (from) {
        g_free(*to);
        *to = g_strdup(from);
    }
}

/* For who looks at them; it is not read anew. */
static bool secret_set(void *state, const void *properties, GError **error)
{
    const struct secret_properties *from = properties;
    struct secret_properties *to = state;

    if (!refuse_loaded(from, error)) {
        return false;
    }
    if (from->has_format) {
        to->has_format = true;
        to->format = from->format;
    }
    take_text(&to->data, from->data);
    take_text(&to->file, from->file);
    take_text(&to->keyid, from->keyid);
    take_text(&to->iv, from->iv);
    return true;
}

const struct object_kind object_secret = {
    .properties = &qapi_type_secret_properties,
    .make = secret_make,
    .co_let_go = co_secret_let_go,
    .end = secret_end,
    .get = secret_get,
    .set = secret_set,
};
