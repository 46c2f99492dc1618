# SPDX-License-Identifier: Apache-2.0
# http.client, and urllib ("urllib" as protocol), as clients of t/43-client-libraries.t: Hybrid::Library says what is
# asked and answered.
import collections, http.client, json, random, ssl, sys, threading, time, urllib.parse, urllib.request

url, protocol, clients = sys.argv[1], sys.argv[2], int(sys.argv[3])
place = urllib.parse.urlsplit(url)
trusting = ssl.create_default_context()
trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE


class Kept:
    def __init__(self):
        if place.scheme == 'https':
            self.connection = http.client.HTTPSConnection(place.netloc, context=trusting, timeout=30)
        else:
            self.connection = http.client.HTTPConnection(place.netloc, timeout=30)

    def ask(self, method, body):
        try:
            self.connection.request(method, place.path, body)
            response = self.connection.getresponse()
            response.read()
            return response.status
        except Exception:
            self.connection.close()  # the next request connects anew
            raise


class Opened:
    def ask(self, method, body):
        request = urllib.request.Request(url, body, method=method)
        with urllib.request.urlopen(request, timeout=30, context=trusting) as response:
            response.read()
            return response.status


def work(client, number, count, end, pause, result):
    i = 0
    while i < count or time.monotonic() < end:
        method, body = ('POST', b'x' * 500) if (i + number) % 2 else ('GET', None)
        try:
            status = client.ask(method, body)
            result[None if status == 200 else method + ' ' + str(status)] += 1
        except Exception as problem:
            result[method + ' ' + type(problem).__name__ + ': ' + str(problem)] += 1
        if pause:
            time.sleep(random.uniform(0, pause / 1000))
        i += 1


all_clients = [Opened() if protocol == 'urllib' else Kept() for _ in range(clients)]
for line in sys.stdin:
    count, seconds, pause = int(line.split()[0]), float(line.split()[1]), int(line.split()[2])
    results = [collections.Counter() for _ in all_clients]
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=work, args=(client, number, count, end, pause, results[number]))
               for number, client in enumerate(all_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = sum(results, collections.Counter())
    answered = result.pop(None, 0)
    print(json.dumps({'answered': answered, 'failed': result}), flush=True)
