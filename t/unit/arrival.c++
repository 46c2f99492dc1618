// SPDX-License-Identifier: Apache-2.0
// When a request is here: every way to cut one in two, what a body needs, and whatever is no HTTP/1 at all.
#include "hybrid/arrival.hpp"
#include "tap.hpp"

#include "../fuzz/arrival.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

using namespace hybrid;
using namespace tap;
using namespace std::literals;

namespace {

constexpr RequestLimits kLimits;
constexpr std::size_t kMost = kLimits.most;
using State = Arrival::State;

Arrival look(std::string_view bytes)
{
    return look_at_request(bytes, kLimits);
}

bool whole(std::string_view bytes)
{
    return look(bytes).state == State::Whole;
}

/// Not whole before its last byte, whole with it; and what is waited for is more than there is, and comes.
void test_cuts(const char *name, const std::string &bytes, const RequestLimits &limits = kLimits)
{
    bool early = false, greedy = false;
    for (std::size_t n = 0; n < bytes.size(); ++n) {
        const Arrival arrival = look_at_request(std::string_view(bytes).substr(0, n), limits);
        early = early || arrival.state == State::Whole;
        greedy = greedy || arrival.wanted <= n || arrival.wanted > bytes.size();
    }
    ok(!early, "%s: not whole before its end", name);
    ok(!greedy, "%s: waits for more, but for no more than comes", name);
    ok(look_at_request(bytes, limits).state == State::Whole, "%s: whole at its end", name);
    ok(look_at_request(bytes + "GET /next", limits).state == State::Whole,
       "%s: and with half of the next one behind it", name);
}

void test_heads()
{
    test_cuts("a head", "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("HTTP/1.0, no fields", "GET / HTTP/1.0\r\n\r\n");
    test_cuts("a target with a host", "GET http://example.com:8080/?a HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("no path", "GET http://[::1] HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("CONNECT", "CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("CONNECT to an address", "CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("blank lines before", "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("a folded field", "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n");
    test_cuts("a method of one's own", "M-SEARCH * HTTP/1.1\r\n"s.replace(9, 1, "/") + "Host: x\r\n\r\n");
    test_cuts("PRI is a method, too (W14)", "PRI / HTTP/1.1\r\nHost: x\r\n\r\n");
    test_cuts("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    test_cuts("a length of nothing", "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    test_cuts("HTTP/0.9", "GET /\r\n");
    test_cuts("an upgrade",
              "GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n");

    RequestLimits limits;
    limits.proxy_header = true;
    test_cuts("behind PROXY", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", limits);
    test_cuts("behind PROXY 2", "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c............GET / HTTP/1.1\r\nHost: x\r\n\r\n"s,
              limits);
    ok(look_at_request("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c........\r\n\r\n"sv, limits).state == State::Partial,
       "a PROXY 2 header that ends as a head does is none");
    ok(whole("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"), "PROXY without a module that reads it is refused at once");
    limits.strict = false;
    test_cuts("line feeds only, where they are allowed", "GET / HTTP/1.1\nHost: x\n\n", limits);
    limits.http2_preface = false;
    test_cuts("HTTP/2's preface, where nobody knows it", "PRI * HTTP/2.0\r\n", limits);
}

const std::string kPost = "POST / HTTP/1.1\r\nHost: x\r\n";
const std::string kChunked = kPost + "Transfer-Encoding: chunked\r\n\r\n";

void test_bodies()
{
    test_cuts("a body", kPost + "Content-Length: 5\r\n\r\nabcde");
    test_cuts("any case", kPost + "cOnTeNt-LeNgTh:5 \r\n\r\nabcde");
    test_cuts("chunks", kChunked + "5\r\nabcde\r\na;x=y\r\n0123456789\r\n0\r\n\r\n");
    test_cuts("leading zeros, blanks", kChunked + "00000000000000000000005 \t;x\r\nabcde\r\n0\r\n\r\n");
    test_cuts("trailers", kChunked + "1\r\na\r\n0\r\nX: y\r\n\r\n");
    test_cuts("chunks within another encoding", kPost + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n");
    test_cuts("folded", kPost + "Transfer-Encoding: gzip,\r\n chunked\r\n\r\n0\r\n\r\n");
    test_cuts("both", kPost + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    test_cuts("who expects to be told to go on", kPost + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n");

    const std::string head = kPost + "Content-Length: 5\r\n\r\n";
    const Arrival arrival = look(head);
    ok(arrival.state == State::Body && arrival.wanted == head.size() + 5 && arrival.head == head.size(),
       "the head is here, and the body's length is known");
    is(look(head + "abc").head, head.size(), "the head remains as long as it is");
    const std::string large = kPost + "Content-Length: 1000000\r\n\r\n";
    is(look(large).wanted, kMost, "of a large body so much is awaited as fits");
    ok(whole(large + std::string(kMost, 'x')), "and that is enough");
    is(look(kPost + "Content-Length: 9223372036854775807\r\n\r\n").wanted, kMost, "of the largest, too");
    is(look(kChunked + "fffffff\r\n").wanted, kMost, "of a large chunk, too");
    is(look(kChunked + "7fffffffffffffff\r\n").wanted, kMost, "of the largest, too");
}

/// Whole at its end and not before: httpd refuses it then.
void test_refused()
{
    const std::string get = "GET / HTTP/1.1\r\n";
    test_cuts("a method that is none", "G(T / HTTP/1.1\r\n");
    test_cuts("a blank too many", "GET  / HTTP/1.1\r\n");
    test_cuts("a control character", "GET /\x01 HTTP/1.1\r\n");
    test_cuts("no path", "GET a HTTP/1.1\r\n");
    test_cuts("CONNECT without a port", "CONNECT x HTTP/1.1\r\n");
    test_cuts("CONNECT with a port that is none", "CONNECT x:y HTTP/1.1\r\n");
    test_cuts("CONNECT to an address without a port", "CONNECT [::1] HTTP/1.1\r\n");
    test_cuts("a scheme that begins with a digit", "GET 9p://x/ HTTP/1.1\r\n");
    test_cuts("a fragment", "GET /#a HTTP/1.1\r\n");
    test_cuts("a user", "GET http://u@x/ HTTP/1.1\r\n");
    test_cuts("a port that is none", "GET http://x:y/ HTTP/1.1\r\n");
    test_cuts("two ports", "GET http://x:1:80/ HTTP/1.1\r\n");
    test_cuts("an address without an end", "GET http://[::1/ HTTP/1.1\r\n");
    test_cuts("no protocol", "GET / HTTPS/1.1\r\n");
    test_cuts("in small letters", "GET / http/1.1\r\n");
    test_cuts("a blank line feed", get + "Host: x\n");
    test_cuts("a zero", get + "Host: \0x\r\n"s);
    test_cuts("no colon, and another line", get + "Host\r\nX: y\r\n");
    test_cuts("a blank before the colon, and the end", get + "Host : x\r\n\r\n");
    test_cuts("a control character in a value, and the end", get + "Host: \x01\r\n\r\n");
    test_cuts("a fold with nothing before it", get + " x\r\n");
    test_cuts("a fold with nothing in it", get + "X: y\r\n \r\n");
    test_cuts("blank lines only", "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n");

    for (const char *length :
         {"123abc", "1234567890123456789012345678901234", "5, 6", "-5", "+5", "", "9223372036854775808"})
        test_cuts(length, kPost + "Content-Length: " + length + "\r\n\r\n"); // W19
    test_cuts("two lengths", kPost + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n");
    test_cuts("a folded length", kPost + "Content-Length: 5\r\n 5\r\n\r\n");
    test_cuts("an encoding that is not known", kPost + "Transfer-Encoding: gzip\r\n\r\n");
    test_cuts("chunks within it", kPost + "Transfer-Encoding: chunked, gzip\r\n\r\n");
    test_cuts("chunks within two words", kPost + "Transfer-Encoding: gzip chunked\r\n\r\n");
    test_cuts("a tab before chunked", kPost + "Transfer-Encoding: gzip,\tchunked\r\n\r\n");
    test_cuts("17 digits of a chunk's size", kChunked + "11111111111111111\r\n");
    test_cuts("a chunk's size that is none", kChunked + "5xyz\r\n");
    test_cuts("no digit", kChunked + "xyz\r\n");
    test_cuts("control characters behind it", kChunked + "5;\x01\r\n");
    test_cuts("blanks in it", kChunked + "5 5\r\n");
    test_cuts("a chunk that goes on", kChunked + "1\r\nabcd\r\n");
    test_cuts("a trailer that is none", kChunked + "0\r\nX\r\n\r\n");
}

/// Where the limits are, LimitRequestLine and so on: refused with the first byte too many.
void test_limits()
{
    RequestLimits limits;
    limits.line = 50;
    limits.field_size = 40;
    limits.fields = 2;
    const auto whole_now = [&](const std::string &bytes) {
        return look_at_request(bytes, limits).state == State::Whole;
    };
    const auto path = [](std::size_t n) { return "GET /" + std::string(n, 'x') + " HTTP/1.1\r\n"; };
    ok(!whole_now(path(50 - 14)) && whole_now(path(50 - 14 + 2)), "a request line");
    const std::string get = path(1);
    const auto field = [&](std::size_t n) { return get + "X: " + std::string(n, 'y') + "\r\n"; };
    ok(!whole_now(field(40 - 3)) && whole_now(field(40 - 3 + 2)), "a field");
    ok(whole_now(get + "X: " + std::string(20, 'y') + "\r\n " + std::string(20, 'y') + "\r\n"), "with its folds");
    ok(!whole_now(get + "A: b\r\nC: d\r\n") && !whole_now(get + "A: b\r\nC: d\r\nE: f\r\n") &&
           whole_now(get + "A: b\r\nC: d\r\nE: f\r\nG: h\r\n"),
       "the number of fields is counted when the next line is here");
    limits.fields = 0;
    ok(!whole_now(get + "A: b\r\nC: d\r\nE: f\r\nG: h\r\n"), "no limit");
    const auto unended = [&](std::size_t size, Carrier carrier, std::size_t line) {
        limits.line = line;
        const std::string bytes = "GET /" + std::string(size - 5, 'x');
        return look_at_request(bytes, limits, carrier).state == State::Whole;
    };
    ok(!unended(8192, Carrier::Socket, 8190) && unended(8193, Carrier::Socket, 8190),
       "httpd refuses a line that does not end as soon as it gets too much of it");
    ok(!unended(8191, Carrier::Socket, 50) && unended(8192, Carrier::Socket, 50), "but not before it gets a piece");
    ok(!unended(24193, Carrier::Socket, 16000) && unended(24194, Carrier::Socket, 16000), "or two of any length");
    ok(!unended(16383, Carrier::Tls, 8190) && unended(16384, Carrier::Tls, 8190), "inside TLS it gets two pieces");
    ok(!unended(8191, Carrier::Tls, 50) && unended(8192, Carrier::Tls, 50), "or one");
    ok(!whole(kChunked + std::string(8191, '0')) && whole(kChunked + std::string(8192, '0')), "a chunk's line, too");
}

void test_others()
{
    RequestLimits limits;
    limits.only_http = false;
    const auto whole_now = [&](std::string_view bytes) { return look_at_request(bytes, limits).state == State::Whole; };
    ok(whole_now("\x16\x03\x01\x02\0\x01"sv) && whole_now("\0"sv) && whole_now("{\"a\":1}") && whole_now(" GET"),
       "other protocols, where there are any: at once");
    ok(!whole_now("GET") && !whole_now("\r\n") && !whole_now("GET /"), "what may be HTTP is not");
    ok(!whole("\x16\x03\x01\x02\0\x01"sv) && whole("{\"a\":1}\r\n"), "where there are none, httpd reads a line");
    ok(whole("hello\r\n") && whole("hello world\r\n"), "which is no request");
    ok(look("").wanted == 1, "nothing: wait for anything");
    ok(whole(std::string(kMost, 'A')), "too long a word");
    std::string head = "GET / HTTP/1.1\r\n";
    while (head.size() < kMost - 600)
        head += "X: " + std::string(495, 'x') + "\r\n";
    ok(!whole(head), "a long head");
    ok(whole(head + "X: " + std::string(595, 'x')), "too long a head");
}

void test_records()
{
    const auto look = [](std::string_view bytes) { return look_at_record(bytes, kLimits); };
    ok(look("").state == State::Partial && look("").wanted == 1, "nothing: wait for anything");
    ok(look("\x16").wanted == 2 && look("\x16\x03").wanted == 5, "a record begins with five bytes, two are known");
    const std::string hello = "\x16\x03\x01\x01\x02"s + std::string(0x102, 'h');
    is(look(hello.substr(0, 5)).wanted, hello.size(), "which tell its length");
    ok(look(hello.substr(0, hello.size() - 1)).state == State::Partial && look(hello).state == State::Whole,
       "it is whole at its end");
    ok(look("GET /").state == State::Whole, "plain HTTP: mod_ssl answers that");
    ok(look("\x15\x03").state == State::Whole, "an alert");
    ok(look("\x16\x02").state == State::Whole, "another version");
    ok(look("\x16\x03\x01\x40\x01"sv).state == State::Whole, "a length that TLS does not know");
}

// What libFuzzer has found worth keeping (make fuzz), and each of these cut everywhere.
void test_corpus(const std::filesystem::path &root)
{
    int files = 0;
    const char *wrong = nullptr;
    std::error_code error;
    for (const auto &entry : std::filesystem::directory_iterator(root / "t/fuzz/corpus-arrival", error)) {
        std::ifstream file(entry.path(), std::ios::binary);
        const std::string bytes(std::istreambuf_iterator<char>(file), {});
        ++files;
        for (std::size_t part = 0; part <= bytes.size() && !wrong; ++part)
            for (const std::size_t most : {bytes.size() / 2 + 1, kMost})
                wrong = wrong ? wrong : fuzz::check_arrival(bytes, part, most);
    }
    ok(!wrong && files > 10, "the corpus of %d: %s", files, wrong ? wrong : "all is well");
}

} // namespace

int main(int argc, char **argv)
{
    const char *root = std::getenv("HYBRID_ROOT");
    test_corpus(argc > 1 ? argv[1] : root ? root : ".");
    test_heads();
    test_bodies();
    test_refused();
    test_limits();
    test_others();
    test_records();
    return done();
}
