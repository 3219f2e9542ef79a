"""Problems with independent parts, from which the planted set is made."""

from mvjax.bench.planted_parts import Part, Scene

TUNING = (
    Scene(
        "beds",
        "A garden has a rectangular bed of {a} m by {b} m, a square bed with side {c} m and a triangular bed with base "
        "{d} m and height {e} m. Find the total area.",
        {"a": (14, 29), "b": (13, 28), "c": (15, 27), "d": (14, 30), "e": (31, 45)},
        (
            Part("Find the area of the rectangular bed.", "the rectangular bed", "the area of the rectangular bed",
                 "a*b", ("The rectangular bed is {a} m by {b} m.", "Its area is {a} * {b} = {=a*b} square metres.")),
            Part("Find the area of the square bed.", "the square bed", "the area of the square bed", "c*c",
                 ("A square with side {c} m has area {c}^2.", "This is {=c*c} square metres.")),
            Part("Find the area of the triangular bed.", "the triangular bed", "the area of the triangular bed",
                 "d*e/2", ("The area of a triangle is half the base times the height.",
                           "We get {d} × {e} = {=d*e}, and half of that is {=d*e/2} square metres.")),
        ),
    ),
    Scene(
        "equations",
        "Solve 3x + {a} = {=a+3*p}, 5y - {b} = {=5*q-b} and 2z + {c} = {=2*r0+c}.",
        {"a": (2, 12), "b": (2, 12), "c": (2, 12), "p": (14, 24), "q": (25, 36), "r0": (37, 49)},
        (
            Part("Solve the equation for x.", "x", "the value of x", "p",
                 ("From 3x + {a} = {=a+3*p} we get 3x = {=3*p}.", "Hence x = {p}.")),
            Part("Solve the equation for y.", "y", "the value of y", "q",
                 ("Adding {b} to both sides of 5y - {b} = {=5*q-b} gives 5y = {=5*q}.", "Dividing by 5, y = {q}.")),
            Part("Solve the equation for z.", "z", "the value of z", "r0",
                 ("2z = {=2*r0+c} - {c} = {=2*r0}", "Therefore, z = {r0}.")),
        ),
    ),
    Scene(
        "shop",
        "Anna buys {a} pens at {p} cents each. Ben buys {b} books at ${q} each. How much does each spend?",
        {"a": (13, 29), "p": (31, 89), "b": (14, 28), "q": (15, 39)},
        (
            Part("How much does Anna spend?", "Anna", "the money that Anna spends", "a*p",
                 ("Anna pays for {a} pens.", "At {p} cents each this costs {a}*{p}={=a*p} cents.")),
            Part("How much does Ben spend?", "Ben", "the money that Ben spends", "b*q",
                 ("Ben's books cost ${q} each, and he takes {b}.", "He spends {b}*{q}=${=b*q}.")),
        ),
    ),
    Scene(
        "crews",
        "Crew North paints {a} rooms at {b} minutes a room. Crew South lays {c} floors at {d} minutes a floor. Crew "
        "East "
        "fits {e} doors at {f} minutes a door. Make a plan with the time of each crew.",
        {"a": (13, 19), "b": (21, 55), "c": (14, 18), "d": (56, 79), "e": (22, 35), "f": (13, 29)},
        (
            Part("Find the time of crew North.", "crew North", "the time of crew North", "a*b",
                 ("North has {a} rooms to paint.", "A room takes {b} minutes.",
                  "In total it needs {a} · {b} = {=a*b} minutes.")),
            Part("Find the time of crew South.", "crew South", "the time of crew South", "c*d",
                 ("South lays {c} floors, {d} minutes each.", "That is {c} · {d} = {=c*d} minutes.")),
            Part("Find the time of crew East.", "crew East", "the time of crew East", "e*f",
                 ("There are {e} doors for crew East.",
                  "With {f} minutes a door, it takes {e} · {f} = {=e*f} minutes.")),
        ),
    ),
    Scene(
        "trains",
        "Train A runs for {t} hours at {v} km/h, train B for {s} hours at {w} km/h. Which one goes further?",
        {"t": (13, 19), "v": (81, 119), "s": (14, 20), "w": (61, 80)},
        (
            Part("Determine how far train A goes.", "train A", "the distance of train A", "t*v",
                 ("The distance is speed times time, d = vt.", "For train A this gives {v} * {t} = {=v*t} km.")),
            Part("Determine how far train B goes.", "train B", "the distance of train B", "s*w",
                 ("With d = v * t, v = {w} and t = {s}, train B covers {w} * {s} = {=s*w} km.",)),
        ),
    ),
    Scene(
        "machines",
        "Two machines run all week. Machine K makes {a} parts an hour, machine L {b} parts an hour.",
        {"a": (13, 39), "b": (14, 45)},
        (
            Part("How many parts does machine K make in a week?", "machine K", "the output of machine K", "a*168",
                 ("A week has 7 * 24 = 168 hours.", "Machine K makes 168 * {a} = {=a*168} parts.")),
            Part("How many parts does machine L make in a week?", "machine L", "the output of machine L", "b*168",
                 ("There are 7 * 24 = 168 hours in a week.", "So machine L makes 168 * {b} = {=b*168} parts.")),
        ),
    ),
    Scene(
        "cases",
        "For a number n between 1 and {m}, consider the multiples of {a} and the multiples of {b}, where {m} = {a} · "
        "{=m/a}.",
        {"a": (3, 9), "b": (2, 2), "m": (630, 630)},
        (
            Part("Case 1: n is a multiple of {a}.", "the multiples of {a}", "the number of multiples of {a}", "m/a",
                 ("Let n = {a}k with 1 ≤ k.", "Then k is at most {m} / {a} = {=m/a}.",
                  "There are {=m/a} such n.")),
            Part("Case 2: n is even.", "the even numbers", "the number of even n", "m/b",
                 ("Let n = 2k.", "Since n ≤ {m}, k ≤ {=m/b}.", "So {=m/b} numbers are even.")),
        ),
    ),
    Scene(
        "two ways",
        "A floor of {a} by {b} tiles is counted by rows and by splitting it.",
        {"a": (14, 29), "b": (23, 39)},
        (
            Part("Count by rows.", "the rows", "the count by rows", "a*b",
                 ("{a} rows of {b} tiles are {=a*b} tiles.",)),
            Part("Count by splitting.", "splitting", "the split count", "a*b+0",
                 ("Split {b} into 20 and {=b-20}.", "{a} * 20 = {=a*20} and {a} * {=b-20} = {=a*(b-20)}.",
                  "The sum is {=a*b}.")),
        ),
        planted=False,
    ),
    Scene(
        "roots",
        "Find the larger root of x^2 - {=p+1}x + {p} = 0 and the discriminant of 2x^2 + {b}x + {c}.",
        {"p": (13, 39), "b": (15, 25), "c": (2, 9)},
        (
            Part("Find the larger root.", "the larger root", "the larger root", "p",
                 ("Factor: x^2 - {=p+1}x + {p} = (x - 1)(x - {p}).", "The roots are 1 and {p}.",
                  "The larger root is {p}.")),
            Part("Find the discriminant.", "the discriminant", "the discriminant", "b*b-8*c",
                 ("The discriminant of ax^2 + bx + c is b^2 - 4ac.",
                  "Here it is {b}^2 - 4·2·{c} = {=b*b} - {=8*c} = {=b*b-8*c}.")),
        ),
        planted=False,
    ),
)  # fmt: skip
"""What the checks were tuned on."""

HELD_OUT = (
    Scene(
        "solids",
        "A workshop makes a crate that is {a} cm by {b} cm by {c} cm, a lid whose parallel sides are {d} cm and {e} cm "
        "at a height of {h} cm, and a frame of {f} cm by {g} cm. Find the volume of the crate, the area of the lid and "
        "the perimeter of the frame.",
        {"a": (13, 29), "b": (14, 28), "c": (15, 27), "d": (20, 38), "e": (40, 58), "h": (14, 26), "f": (31, 67),
         "g": (32, 69)},
        (
            Part("Find the volume of the crate.", "the crate", "the volume of the crate", "a*b*c",
                 ("A box-shaped crate has length times width times height as its volume.",
                  "Multiplying the base, {a} × {b} = {=a*b} cm².",
                  "Times the height this is {=a*b} × {c} = {=a*b*c} cm³.")),
            Part("Find the area of the lid.", "the lid", "the area of the lid", "(d+e)*h/2",
                 ("The lid is a trapezoid.",
                  "Its parallel sides add up to {d} + {e} = {=d+e} cm.",
                  "Half of {=d+e} × {h} is {=(d+e)*h/2} cm².")),
            Part("Find the perimeter of the frame.", "the frame", "the perimeter of the frame", "2*(f+g)",
                 ("The frame is a rectangle of {f} cm by {g} cm.",
                  "Two sides together: {f} + {g} = {=f+g} cm.",
                  "All four sides: 2 × {=f+g} = {=2*(f+g)} cm.")),
        ),
    ),
    Scene(
        "counting",
        "A club has {a} juniors and {b} seniors. A pair is one junior and one senior; a duel is two different seniors; "
        "a desk is drawn for each of {c} juniors on {d} days. How many pairs, duels and draws are there?",
        {"a": (14, 33), "b": (15, 35), "c": (13, 27), "d": (14, 29)},
        (
            Part("Count the pairs.", "the pairs", "the number of pairs", "a*b",
                 ("Each of the {a} juniors can stand with any of the {b} seniors.",
                  "The product rule gives {a} · {b} = {=a*b} pairs.")),
            Part("Count the duels.", "the duels", "the number of duels", "b*(b-1)/2",
                 ("For the duels two of {b} seniors are chosen, the order does not matter.",
                  "There are {b} · {=b-1} = {=b*(b-1)} ordered choices.",
                  "Every duel was counted twice, which leaves {=b*(b-1)} / 2 = {=b*(b-1)/2} duels.")),
            Part("Count the draws.", "the draws", "the number of draws", "c*d",
                 ("On every one of {d} days there are {c} draws.",
                  "That makes {d} · {c} = {=c*d} draws.")),
        ),
    ),
    Scene(
        "savings",
        "Mara borrows ${p} at {q}% simple interest a year for {y} years. Noel puts ${s} aside every month for {m} "
        "months. How much interest does Mara pay, and how much does Noel save?",
        {"p": (21, 79), "q": (3, 9), "y": (14, 19), "s": (31, 87), "m": (17, 29)},
        (
            Part("Compute Mara's interest.", "Mara's loan", "the interest that Mara pays", "p*q*y/100",
                 ("Simple interest is the principal times the rate times the time.",
                  "For Mara the rate is {q}% = {=q/100}.",
                  "Interest = {p} × {=q/100} × {y} = {=p*q*y/100} dollars.")),
            Part("Compute Noel's savings.", "Noel's plan", "the amount that Noel saves", "s*m",
                 ("Noel saves ${s} a month.", "Over {m} months that is {m} × {s} = ${=s*m}.")),
        ),
    ),
    Scene(
        "kitchen",
        "A recipe for {n} guests takes {f} g of flour, {s} g of sugar and {b} g of butter. The cook wants to serve "
        "{k} times as many guests and has to buy each ingredient.",
        {"n": (4, 9), "f": (210, 390), "s": (110, 190), "b": (60, 99), "k": (13, 19)},
        (
            Part("Find the flour to buy.", "the flour", "the weight of the flour", "f*k",
                 ("The flour grows in proportion to the guests.", "So {f} g becomes {f} * {k} = {=f*k} g.")),
            Part("Find the sugar to buy.", "the sugar", "the weight of the sugar", "s*k",
                 ("**Sugar.** The original amount is {s} g.", "Scaled by {k} we need {s} * {k} = {=s*k} g.")),
            Part("Find the butter to buy.", "the butter", "the weight of the butter", "b*k",
                 ("Butter: the recipe asks for {b} g per batch.", "{k} batches take {b} * {k} = {=b*k} g.")),
        ),
    ),
    Scene(
        "tour",
        "A bus goes from Aldern to Brook, {a} km at {u} km/h, and a van from Cole to Dunn in {w} hours at {v} km/h. "
        "The bus needs {l} litres of fuel per 100 km. Plan the tour.",
        {"a": (4, 9), "u": (50, 90), "w": (13, 17), "v": (41, 79), "l": (13, 31)},
        (
            Part("Work out the distance of the van.", "the van", "the distance of the van", "w*v",
                 ("The van drives {w} hours at a steady {v} km/h.",
                  "distance = speed × time = {v} × {w} = {=v*w} km")),
            Part("Work out the fuel of the bus for {w} such legs of 100 km.", "the bus", "the fuel of the bus", "l*w",
                 ("Per 100 km the bus burns {l} litres.",
                  "For {w} legs: {w} × {l} = {=l*w} litres.",
                  "The tank has to hold that much or be filled on the way.")),
        ),
    ),
    Scene(
        "sums",
        "Evaluate the sum of the integers from 1 to {n}, the sum of the first {m} odd numbers, and the sum of the "
        "first "
        "{k} even numbers.",
        {"n": (21, 59), "m": (14, 37), "k": (17, 39)},
        (
            Part("Evaluate the sum of the integers.", "the integers", "the sum of the integers", "n*(n+1)/2",
                 ("The formula is $S = n(n+1)/2$ with $n = {n}$.",
                  "$S = {n} \\cdot {=n+1} / 2 = {=n*(n+1)/2}$.")),
            Part("Evaluate the sum of the odd numbers.", "the odd numbers", "the sum of the odd numbers", "m*m",
                 ("The first n odd numbers add up to n^2; here n = {m}.", "{m}^2 = {=m*m}.")),
            Part("Evaluate the sum of the even numbers.", "the even numbers", "the sum of the even numbers", "k*(k+1)",
                 ("Even numbers up to 2n add up to n(n+1).",
                  "With n = {k} the sum is {k} × {=k+1} = {=k*(k+1)}.")),
        ),
    ),
    Scene(
        "cases",
        "A guest pays {a} dollars a night for {n} nights by card, with a fee of {f} dollars, or {b} dollars a night in "
        "cash without a fee. What is the bill in each case?",
        {"a": (41, 89), "b": (43, 97), "n": (13, 23), "f": (14, 30)},
        (
            Part("Case A: the guest pays by card.", "the card", "the bill by card", "a*n+f",
                 ("Suppose the guest uses a card.", "The nights come to {a} × {n} = {=a*n} dollars.",
                  "With the fee the bill is {=a*n} + {f} = {=a*n+f} dollars.")),
            Part("Case B: the guest pays in cash.", "cash", "the bill in cash", "b*n",
                 ("Suppose the guest pays cash.", "There is no fee, so the bill is {b} × {n} = {=b*n} dollars.")),
        ),
    ),
    Scene(
        "pumps",
        "Two pumps run day and night. Pump P moves {a} litres a minute, pump Q {b} litres a minute. How much does each "
        "move in a day?",
        {"a": (13, 48), "b": (15, 49)},
        (
            Part("How much does pump P move in a day?", "pump P", "the daily volume of pump P", "a*1440",
                 ("A day has 24 × 60 = 1,440 minutes.", "Pump P moves {a} × 1,440 = {=a*1440} litres.")),
            Part("How much does pump Q move in a day?", "pump Q", "the daily volume of pump Q", "b*1440",
                 ("There are 24 × 60 = 1440 minutes in a day.", "Pump Q moves {b} × 1440 = {=b*1440} litres.")),
        ),
    ),
    Scene(
        "two ways",
        "Compute {a} × {b} in two ways and see whether they agree.",
        {"a": (23, 49), "b": (17, 29)},
        (
            Part("Multiply directly.", "direct multiplication", "the direct product", "a*b+0",
                 ("Direct multiplication: {a} × {b} = {=a*b}.",)),
            Part("Split the second factor.", "splitting", "the split product", "a*b",
                 ("Write {b} as 10 + {=b-10}.", "Then {a} × 10 = {=a*10} and {a} × {=b-10} = {=a*(b-10)}.",
                  "Altogether {=a*10} + {=a*(b-10)} = {=a*b}.")),
        ),
        planted=False,
    ),
    Scene(
        "unknowns",
        "A farmer's hens and geese number {t}, with {d} more hens than geese. A miller's sacks and bags number {u}, "
        "with {e} more sacks than bags. How many geese and how many bags are there?",
        {"t": (31, 59), "d": (2, 11), "u": (61, 99), "e": (2, 12)},
        (
            Part("Find the number of geese.", "the geese", "the number of geese", "(t-d)/2",
                 ("Let g be the number of geese, so there are g + {d} hens.",
                  "Then 2g + {d} = {t}, so 2g = {=t-d} and g = {=(t-d)/2}.")),
            Part("Find the number of bags.", "the bags", "the number of bags", "(u-e)/2",
                 ("Let b be the number of bags; the sacks are b + {e}.",
                  "From b + b + {e} = {u} we get 2b = {=u-e}.", "So b = {=(u-e)/2}.")),
        ),
    ),
)  # fmt: skip
"""What they were not tuned on."""
