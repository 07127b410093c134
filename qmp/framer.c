/*
 * The grammar of JSON, and what is done about errors, a byte at a time.
 *
 * It builds nothing: qapi/json.h makes the tree of a text that passed here. It
 * exists because a session must survive whatever a client sends: an error ends
 * the current text and skips to the next byte that can begin or end something,
 * as QEMU does, so that a client which lost its way finds back. Errors of the
 * lexer are told at once, those of the grammar when the brackets of the text
 * are balanced. A string may be in single quotes. Any loop; never suspends.
 */
#include "framer.h"

#include <string.h>

#include "framer_lex.h"
#include "qapi/codec.h"
#include "util/error.h"

enum expect {
    EXPECT_VALUE,
    EXPECT_VALUE_OR_END, /* after [ */
    EXPECT_KEY,
    EXPECT_KEY_OR_END, /* after { */
    EXPECT_COLON,
    EXPECT_SEPARATOR, /* comma or end */
};

enum token { TOKEN_STRUCTURE, TOKEN_STRING, TOKEN_SCALAR };

G_STATIC_ASSERT(QAPI_MAX_DEPTH <= sizeof((struct framer){0}.nesting) * 8);

void framer_init(struct framer *f)
{
    *f = (struct framer){.text = g_string_sized_new(256)};
}

void framer_reset(struct framer *f)
{
    g_string_truncate(f->text, 0);
    f->token = 0;
    f->lex = LEX_START;
    f->expect = EXPECT_VALUE;
    f->tokens = 0;
    f->braces = f->brackets = f->depth = 0;
    f->grammar_error = NULL;
    g_clear_pointer(&f->word_error, g_free);
}

void framer_clear(struct framer *f)
{
    framer_reset(f);
    g_string_free(f->text, TRUE);
    f->text = NULL;
}

/* ---- grammar ---- */

static bool in_object(const struct framer *f)
{
    int level = f->depth - 1;
    return level >= 0 && (f->nesting[level / 8] >> (level % 8) & 1);
}

static void complain(struct framer *f, const char *message)
{
    if (!f->grammar_error) {
        f->grammar_error = message;
    }
}

static void value_ended(struct framer *f)
{
    f->expect = EXPECT_SEPARATOR;
}

static void open_level(struct framer *f, bool object)
{
    int level = f->depth;

    if (f->expect == EXPECT_KEY || f->expect == EXPECT_KEY_OR_END) {
        complain(f, "key is not a string in object");
    } else if (f->expect == EXPECT_COLON) {
        complain(f, "missing : in object pair");
    } else if (f->expect == EXPECT_SEPARATOR) {
        complain(f, in_object(f) ? "expected separator in dict"
                                 : "expected separator in list");
    }
    f->depth++;
    f->nesting[level / 8] &= ~(1 << (level % 8));
    f->nesting[level / 8] |= object << (level % 8);
    f->expect = object ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
}

static void close_level(struct framer *f, bool object)
{
    static const bool may_end[] = {
        [EXPECT_VALUE_OR_END] = true,
        [EXPECT_KEY_OR_END] = true,
        [EXPECT_SEPARATOR] = true,
    };

    if (f->expect == EXPECT_COLON) {
        complain(f, "missing : in object pair");
    } else if (!f->depth ||
               (f->expect != EXPECT_SEPARATOR &&
                (f->expect >= G_N_ELEMENTS(may_end) || !may_end[f->expect]))) {
        complain(f, "expecting value");
    } else if (in_object(f) != object) {
        complain(f, f->expect != EXPECT_SEPARATOR ? "expecting value"
                    : in_object(f)                ? "expected separator in dict"
                                   : "expected separator in list");
    }
    f->depth -= f->depth > 0;
    value_ended(f);
}

static void scalar(struct framer *f, enum token token)
{
    switch ((enum expect)f->expect) {
    case EXPECT_KEY:
    case EXPECT_KEY_OR_END:
        if (token != TOKEN_STRING) {
            complain(f, "key is not a string in object");
        }
        f->expect = EXPECT_COLON;
        return;
    case EXPECT_COLON:
        complain(f, "missing : in object pair");
        break;
    case EXPECT_SEPARATOR:
        complain(f, in_object(f) ? "expected separator in dict"
                                 : "expected separator in list");
        break;
    default:
        break;
    }
    value_ended(f);
}

static void check_word(struct framer *f)
{
    const char *word = f->text->str + f->token;
    size_t length = f->text->len - f->token;

    if ((length == 4 &&
         (!memcmp(word, "true", 4) || !memcmp(word, "null", 4))) ||
        (length == 5 && !memcmp(word, "false", 5))) {
        return;
    }
    if (!f->grammar_error) {
        f->word_error = g_strndup(word, MIN(length, 200));
        complain(f, "invalid keyword");
    }
}

static void structure(struct framer *f, char c)
{
    switch (c) {
    case '{':
    case '[':
        f->braces += c == '{';
        f->brackets += c == '[';
        if (f->depth < QAPI_MAX_DEPTH) {
            open_level(f, c == '{');
        }
        break;
    case '}':
    case ']':
        f->braces -= c == '}';
        f->brackets -= c == ']';
        close_level(f, c == '}');
        break;
    case ':':
        if (f->expect == EXPECT_COLON) {
            f->expect = EXPECT_VALUE;
        } else {
            complain(f, f->expect != EXPECT_SEPARATOR ? "expecting value"
                        : in_object(f) ? "expected separator in dict"
                                       : "expected separator in list");
        }
        break;
    default:
        if (f->expect == EXPECT_SEPARATOR && f->depth) {
            f->expect = in_object(f) ? EXPECT_KEY : EXPECT_VALUE;
        } else {
            complain(f, f->expect == EXPECT_COLON ? "missing : in object pair"
                                                  : "expecting value");
        }
    }
}

/* True if the text is complete, or broken beyond repair. */
static bool token_ended(struct framer *f)
{
    char first = f->text->str[f->token];

    if (framer_is_structure(first)) {
        structure(f, first);
    } else if (first == '"' || first == '\'') {
        scalar(f, TOKEN_STRING);
    } else {
        if (f->lex == LEX_WORD) {
            check_word(f);
        }
        scalar(f, TOKEN_SCALAR);
    }
    f->lex = LEX_START;
    f->token = f->text->len;
    f->tokens++;
    return f->braces < 0 || f->brackets < 0 ||
           (f->braces == 0 && f->brackets == 0);
}

/* ---- what is in strings ---- */

static int hex4(const char *s, const char *end)
{
    int value = 0;

    if (end - s < 4) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        int digit = g_ascii_xdigit_value(s[i]);
        if (digit < 0) {
            return -1;
        }
        value = value << 4 | digit;
    }
    return value;
}

static bool escapes_valid(const char *text, size_t length, GError **error)
{
    const char *end = text + length;

    for (const char *s = memchr(text, '\\', length); s;
         s = memchr(s, '\\', end - s)) {
        char c = s[1];
        if (c != 'u') {
            /* json-c does not know the single quote. */
            if (!strchr("bfnrt/\\\"", c)) {
                return error_set(error, "JSON parse error, invalid escape "
                                        "sequence in string");
            }
            s += 2;
            continue;
        }
        int code = hex4(s + 2, end);
        bool high = (code & 0xfc00) == 0xd800;
        int low = high && end - s >= 12 && s[6] == '\\' && s[7] == 'u'
                      ? hex4(s + 8, end)
                      : -1;
        if (code < 0 ||
            ((code & 0xf800) == 0xd800 && (low & ~0x3ff) != 0xdc00)) {
            return error_set(error,
                             "JSON parse error, %.*s is not a valid Unicode "
                             "character",
                             (int)MIN(6, strcspn(s, "\"'") + 1), s);
        }
        s += high ? 12 : 6;
    }
    return true;
}

static bool text_valid(struct framer *f, GError **error)
{
    if (f->word_error) {
        return error_set(error, "JSON parse error, invalid keyword '%s'",
                         f->word_error);
    }
    if (f->grammar_error) {
        return error_set(error, "JSON parse error, %s", f->grammar_error);
    }
    if (!g_utf8_validate_len(f->text->str, f->text->len, NULL)) {
        return error_set(error,
                         "JSON parse error, invalid UTF-8 sequence in string");
    }
    return escapes_valid(f->text->str, f->text->len, error);
}

/* The bytes that do not belong, for a message. */
static enum framer_result stray(struct framer *f, GError **error)
{
    gsize length = MIN(f->text->len - f->token, 200);
    g_autofree char *bytes =
        g_utf8_make_valid(f->text->str + f->token, (gssize)length);

    error_set(error, "JSON parse error, stray '%s'", bytes);
    framer_reset(f);
    f->lex = LEX_RECOVERY;
    return FRAMER_ERROR;
}

static bool within_limits(struct framer *f, GError **error)
{
    if (f->braces + f->brackets > QAPI_MAX_DEPTH) {
        return error_set(error, "JSON nesting depth limit exceeded");
    }
    if (f->tokens > FRAMER_MAX_TOKENS) {
        return error_set(error, "JSON token count limit exceeded");
    }
    if (f->text->len > FRAMER_MAX_BYTES) {
        return error_set(error, "JSON token size limit exceeded");
    }
    return true;
}

/* Only the depth of what is skipped counts; brackets in its strings may
 * mislead, and then a new line, or the 0xff that clients send to begin anew,
 * helps. */
static void skip_byte(struct framer *f, char c)
{
    f->brackets += (c == '[' || c == '{') - (c == ']' || c == '}');
    if (c == '\n' || c == (char)0xff || f->brackets <= 0) {
        framer_reset(f);
    }
}

/* Space and what follows an error belong to no token. */
static bool skipped(struct framer *f, char c)
{
    bool space = c == ' ' || c == '\t' || c == '\r' || c == '\n';

    if (f->lex == LEX_SKIP) {
        skip_byte(f, c);
        return true;
    }
    if (f->lex == LEX_RECOVERY) {
        if (!framer_is_structure(c) && c != '\n') {
            return true;
        }
        f->lex = LEX_START;
    }
    return f->lex == LEX_START && space;
}

enum framer_result framer_feed(struct framer *f, const char *data,
                               size_t length, size_t *used, GError **error)
{
    /* The last call returned a text, which was left in place. */
    if (f->tokens && f->lex == LEX_START && !f->braces && !f->brackets) {
        framer_reset(f);
    }
    for (size_t i = 0; i < length;) {
        char c = data[i];
        if (skipped(f, c)) {
            if (f->text->len) {
                g_string_append_c(f->text, ' ');
                f->token = f->text->len;
            }
            i++;
            continue;
        }
        enum step step = framer_lex_byte(f, (unsigned char)c);
        if (step != STEP_TOKEN_AGAIN) {
            g_string_append_c(f->text, c);
            i++;
        }
        *used = i;
        if (step == STEP_STRAY) {
            return stray(f, error);
        }
        bool done = step != STEP_TAKEN && token_ended(f);
        if (!within_limits(f, error)) {
            int open = f->braces + f->brackets;
            framer_reset(f);
            f->brackets = open;
            f->lex = open > 0 ? LEX_SKIP : LEX_START;
            return FRAMER_ERROR;
        }
        if (done && !text_valid(f, error)) {
            framer_reset(f);
            return FRAMER_ERROR;
        }
        if (done) {
            return FRAMER_TEXT;
        }
    }
    *used = length;
    return FRAMER_MORE;
}
