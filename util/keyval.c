/*
 * Splitting of "key=value,..." and reading of sizes with suffixes.
 *
 * A key ends at the first '=' or ','; a value at the first ',' that is not
 * doubled. So "a,,b=c" as a first element with an implied key is one value.
 * A comma after the last element is accepted, as the command lines of this
 * field always did. Pure functions, any thread.
 */
#include "util/keyval.h"

#include <errno.h>
#include <string.h>

#include "util/error.h"

static void keyval_free(gpointer p)
{
    struct keyval *kv = p;
    g_free(kv->key);
    g_free(kv->value);
    g_free(kv);
}

/* Takes the value at *text, undoubles its commas, and moves *text behind the
 * separator. */
static char *take_value(const char **text)
{
    const char *s = *text;
    GString *value = g_string_new(NULL);

    for (;;) {
        size_t n = strcspn(s, ",");
        g_string_append_len(value, s, n);
        s += n;
        if (s[0] != ',' || s[1] != ',') {
            break;
        }
        g_string_append_c(value, ',');
        s += 2;
    }
    *text = *s ? s + 1 : s;
    return g_string_free(value, FALSE);
}

GPtrArray *keyval_split(const char *text, const char *implied_key,
                        GError **error)
{
    g_autoptr(GPtrArray) out = g_ptr_array_new_with_free_func(keyval_free);

    for (const char *s = text; *s;) {
        size_t n = strcspn(s, "=,");
        struct keyval *kv = g_new0(struct keyval, 1);
        g_ptr_array_add(out, kv);

        if (s[n] != '=' && s == text && implied_key) {
            kv->key = g_strdup(implied_key);
            kv->value = take_value(&s);
            continue;
        }
        if (n == 0) {
            error_set(error, "Missing parameter name before '%.20s' in '%s'", s,
                      text);
            return NULL;
        }
        kv->key = g_strndup(s, n);
        s += n;
        if (*s == '=') {
            s++;
            kv->value = take_value(&s);
        } else {
            kv->value = g_strdup("on");
            kv->bare = true;
            s += *s == ',';
        }
    }
    return g_steal_pointer(&out);
}

void keyval_negate(struct keyval *kv)
{
    if (kv->bare && g_str_has_prefix(kv->key, "no")) {
        char *key = g_strdup(kv->key + strlen("no"));
        g_free(kv->key);
        g_free(kv->value);
        kv->key = key;
        kv->value = g_strdup("off");
    }
}

/* The power of two that a suffix stands for, or -1. */
static int suffix_shift(char c)
{
    static const char letters[] = "BKMGTPE";
    const char *p = c ? strchr(letters, g_ascii_toupper(c)) : NULL;
    return p ? 10 * (int)(p - letters) : -1;
}

/* The digits of a decimal fraction as a numerator over 10^n; the digits that
 * would not fit cannot change a result below 2^64 bytes by a byte. */
static const char *take_fraction(const char *s, uint64_t *num, uint64_t *den)
{
    *num = 0;
    *den = 1;
    for (; g_ascii_isdigit(*s); s++) {
        if (*den < UINT64_C(1000000000000000000)) {
            *num = *num * 10 + (*s - '0');
            *den *= 10;
        }
    }
    return s;
}

/* The digits at s in the given base; NULL if there are none. What does not fit
 * into 64 bits becomes a value that does not either. */
static const char *take_number(const char *s, int base,
                               unsigned __int128 *value)
{
    const char *start = s;
    unsigned __int128 v = 0;

    for (;; s++) {
        int digit =
            base == 16 ? g_ascii_xdigit_value(*s) : g_ascii_digit_value(*s);
        if (digit < 0) {
            break;
        }
        if (v <= UINT64_MAX) {
            v = v * base + digit;
        }
    }
    *value = v;
    return s > start ? s : NULL;
}

/* Leading blanks and a plus sign pass, as with strtoull(); in hexadecimal b and
 * e are digits, and a fraction of a byte is malformed. */
int keyval_size(const char *s, uint64_t *bytes)
{
    unsigned __int128 whole;
    uint64_t num = 0, den = 1;
    int shift = 0;

    while (g_ascii_isspace(*s)) {
        s++;
    }
    s += *s == '+';
    bool hex = s[0] == '0' && (s[1] == 'x' || s[1] == 'X');
    s = hex ? take_number(s + 2, 16, &whole) : take_number(s, 10, &whole);
    if (!s) {
        return -EINVAL;
    }
    if (*s == '.' && !hex) {
        s = take_fraction(s + 1, &num, &den);
    }
    if (*s) {
        shift = suffix_shift(*s++);
    }
    if (shift < 0 || *s || (shift == 0 && num)) {
        return -EINVAL;
    }
    unsigned __int128 total = whole << shift;
    total += ((unsigned __int128)num << shift) / den;
    if (total > UINT64_MAX) {
        return -ERANGE;
    }
    *bytes = total;
    return 0;
}

bool keyval_parse_size(const char *name, const char *text, uint64_t *bytes,
                       GError **error)
{
    int ret = keyval_size(text, bytes);

    if (ret == -ERANGE) {
        return error_set(error, "Value '%s' is out of range for parameter '%s'",
                         text, name);
    }
    return ret == 0 ||
           error_set(error,
                     "Parameter '%s' expects a non-negative number below "
                     "2^64\nOptional suffix k, M, G, T, P or E means kilo-, "
                     "mega-, giga-, tera-, peta-\nand exabytes, respectively.",
                     name);
}

bool keyval_take_number(const struct keyval *kv, uint64_t *out, GError **error)
{
    char *end;

    errno = 0;
    *out = g_ascii_strtoull(kv->value, &end, 0);
    if (errno == ERANGE) {
        return error_set(error, "Value '%s' is too large for parameter '%s'",
                         kv->value, kv->key);
    }
    return (*kv->value && !*end) ||
           error_set(error, "Parameter '%s' expects a number", kv->key);
}

bool keyval_bool(const char *text, bool *on)
{
    static const char *const yes[] = {"on", "yes", "true", "y", NULL};
    static const char *const no[] = {"off", "no", "false", "n", NULL};

    *on = g_strv_contains(yes, text);
    return *on || g_strv_contains(no, text);
}

bool keyval_take_bool(const struct keyval *kv, bool *on, GError **error)
{
    return keyval_bool(kv->value, on) ||
           error_set(error, "Parameter '%s' expects 'on' or 'off'", kv->key);
}

char *keyval_quote(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    return g_strjoinv(",,", parts);
}
