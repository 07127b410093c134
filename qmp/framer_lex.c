/*
 * Tokens of JSON, a byte at a time: strings in either kind of quotes, numbers,
 * words in small letters, and {}[]:, by themselves. Pure; any loop.
 */
#include "framer_lex.h"

#include <string.h>

static bool is_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}

bool framer_is_structure(unsigned char c)
{
    return c && strchr("{}[]:,", c);
}

static enum step go(struct framer *f, enum lex state)
{
    f->lex = state;
    return STEP_TAKEN;
}

static enum step lex_start(struct framer *f, unsigned char c)
{
    if (framer_is_structure(c)) {
        return STEP_TOKEN;
    }
    switch (c) {
    case '"':
        return go(f, LEX_DOUBLE);
    case '\'':
        return go(f, LEX_SINGLE);
    case '-':
        return go(f, LEX_MINUS);
    case '0':
        return go(f, LEX_ZERO);
    default:
        if (is_digit(c)) {
            return go(f, LEX_INT);
        }
        return c >= 'a' && c <= 'z' ? go(f, LEX_WORD) : STEP_STRAY;
    }
}

static enum step lex_string(struct framer *f, unsigned char c)
{
    bool twice = f->lex == LEX_DOUBLE || f->lex == LEX_DOUBLE_ESC;
    bool escaped = f->lex == LEX_DOUBLE_ESC || f->lex == LEX_SINGLE_ESC;

    /* Bytes that are in no UTF-8 sequence show at once that this is no text;
     * clients send 0xff to end whatever was going on. */
    if (c < 0x20 || c == 0xc0 || c == 0xc1 || c >= 0xf5) {
        return STEP_STRAY;
    }
    if (escaped) {
        return go(f, twice ? LEX_DOUBLE : LEX_SINGLE);
    }
    if (c == '\\') {
        return go(f, twice ? LEX_DOUBLE_ESC : LEX_SINGLE_ESC);
    }
    return c == (twice ? '"' : '\'') ? STEP_TOKEN : STEP_TAKEN;
}

static enum step lex_number(struct framer *f, unsigned char c)
{
    switch ((enum lex)f->lex) {
    case LEX_MINUS:
        if (is_digit(c)) {
            return go(f, c == '0' ? LEX_ZERO : LEX_INT);
        }
        return STEP_STRAY;
    case LEX_POINT:
        return is_digit(c) ? go(f, LEX_FRACTION) : STEP_STRAY;
    case LEX_E:
        if (c == '+' || c == '-') {
            return go(f, LEX_E_SIGN);
        }
        return is_digit(c) ? go(f, LEX_EXPONENT) : STEP_STRAY;
    case LEX_E_SIGN:
        return is_digit(c) ? go(f, LEX_EXPONENT) : STEP_STRAY;
    default:
        break;
    }
    if (is_digit(c)) {
        return f->lex == LEX_ZERO ? STEP_STRAY : STEP_TAKEN;
    }
    if (c == '.' && (f->lex == LEX_ZERO || f->lex == LEX_INT)) {
        return go(f, LEX_POINT);
    }
    if ((c == 'e' || c == 'E') && f->lex != LEX_EXPONENT) {
        return go(f, LEX_E);
    }
    return STEP_TOKEN_AGAIN;
}

enum step framer_lex_byte(struct framer *f, unsigned char c)
{
    switch ((enum lex)f->lex) {
    case LEX_START:
        return lex_start(f, c);
    case LEX_DOUBLE:
    case LEX_DOUBLE_ESC:
    case LEX_SINGLE:
    case LEX_SINGLE_ESC:
        return lex_string(f, c);
    case LEX_WORD:
        return c >= 'a' && c <= 'z' ? STEP_TAKEN : STEP_TOKEN_AGAIN;
    default:
        return lex_number(f, c);
    }
}
